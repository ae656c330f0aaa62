"""What all post-training stages share: the base model with or without an adapter, the run, the written directory."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence

from torch import nn

from foundling.core.artifacts import Artifact, Draft
from foundling.core.hardware import device
from foundling.core.stages import Inputs
from foundling.models.adapter_files import save_adapter
from foundling.models.adapters import attach, merge
from foundling.models.checkpoint import load_module, save_module
from foundling.models.config import ModelConfig
from foundling.models.language_model import LanguageModel, require_left_to_right
from foundling.models.quantized import refuse_to_train_compressed
from foundling.post_training.config import TuningConfig
from foundling.tokenization.tokenizer import Tokenizer
from foundling.training.model_card import model_card
from foundling.training.objective import Objective
from foundling.training.trainer import Trainer, TrainingSummary

LOG = "training.log.jsonl"
ADAPTER = "adapter"  # folder of the tuned model's directory that holds the adapter by itself


def load_base(base: Artifact, *, encoders: bool = False) -> tuple[LanguageModel, Tokenizer]:
    """The base model as it is. Its own answers are sampled before `prepare`: a plain model is the fastest.

    Args:
        encoders: models that see both ways are welcome, too.

    Raises:
        FoundlingError: the tokenizer is another model's, or the model does not continue texts.
    """
    module, tokenizer = load_module(base.path).to(device()), Tokenizer.load(base.path)
    tokenizer.require_fits(module.config.vocab_size, base.path)
    if not encoders:
        require_left_to_right(module.config)
    return module, tokenizer


def prepare(module: LanguageModel, config: TuningConfig) -> None:
    """Make a model ready to train, in place: whole, or frozen under a fresh adapter.

    Raises:
        FoundlingError: a compressed model and no adapter.
    """
    if config.adapter is not None:
        attach(module, config.adapter, config.seed)
    else:
        refuse_to_train_compressed(module)


def tune(
    module: nn.Module,
    objective: Objective,
    config: TuningConfig,
    base: Artifact,
    draft: Draft,
    title: str,
    shape: ModelConfig,
) -> TrainingSummary:
    """Run the loop on what has the language model's `shape` and record what it did."""
    trainer = Trainer(
        module,
        objective,
        config,
        draft.scratch,
        log=draft.scratch / LOG,
        data=f"{base.key} {draft.key}",
        flops_per_token=shape.flops_per_token(config.context, training=True),
        title=title,
    )
    summary = trainer.fit()
    draft.seeds[title] = config.seed
    draft.metrics |= {
        "steps": summary.steps,
        "tokens": summary.tokens,
        "training_flops": summary.tokens * shape.flops_per_token(config.context, training=True),
        "training_loss": summary.loss,
        "trained_parameters": sum(p.numel() for p in module.parameters() if p.requires_grad),
    }
    draft.timings |= {"tokens_per_s": summary.tokens_per_s, "mfu": summary.mfu, "training_seconds": summary.seconds}
    return summary


def write_tuned(
    module: LanguageModel, tokenizer: Tokenizer, config: TuningConfig, base: Artifact, draft: Draft, card: str
) -> None:
    """The tuned model as a Hugging Face directory; an adapter is kept by itself too, and merged into the model."""
    if config.adapter is not None:
        save_adapter(module, config.adapter, draft.path / ADAPTER, f"../../{base.path.name}")
        merge(module)
    save_module(module, draft.path)
    tokenizer.save(draft.path)
    (draft.path / "README.md").write_text(card, encoding="utf-8")
    shutil.copyfile(draft.scratch / LOG, draft.path / LOG)


def tuned_card(
    title: str,
    summary: str,
    config: TuningConfig,
    inputs: Inputs,
    results: Mapping[str, Mapping[str, float]],
    limits: Sequence[str],
    task: str = "text-generation",
) -> str:
    """The model card of a tuned model."""
    recipe = json.loads(config.model_dump_json())
    return model_card(title, summary, inputs=inputs, recipe=recipe, results=results, limits=limits, task=task)
