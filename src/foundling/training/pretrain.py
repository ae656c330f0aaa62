"""The stage `pretrain`: token shards, and perhaps a base model, to a model directory."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import cast

from torch import nn

from foundling.core.artifacts import Artifact, Draft
from foundling.core.hardware import device
from foundling.core.stages import Inputs
from foundling.corpus.baselines import compression_baselines
from foundling.models.checkpoint import save_module
from foundling.models.language_model import LanguageModel
from foundling.tokenization.tokenizer import Tokenizer
from foundling.training.baselines import token_ngram_bits_per_byte
from foundling.training.config import PretrainConfig
from foundling.training.launch import together
from foundling.training.model_card import model_card
from foundling.training.objective import Objective
from foundling.training.objectives.causal import Causal
from foundling.training.objectives.choices import BOTH_WAYS
from foundling.training.prefetch import Prefetched
from foundling.training.preparation import Preparation, prepare
from foundling.training.trainer import Trainer, TrainingSummary

_CAPTIONS = {
    "validation_bits_per_byte": "Bits per byte on held-out text (lower is better)",
    "validation_loss": "Held-out loss of the objective, in nats; the baselines are bits per byte",
}
SampleTexts = Callable[..., list[str]]  # (module, tokenizer, prompts)
LOG = "training.log.jsonl"
KEPT = "checkpoints"


def build_pretrained(config: PretrainConfig, inputs: Inputs, draft: Draft, sample: SampleTexts | None = None) -> None:
    """Train on the tokens and write a Hugging Face model directory, its card, and its scores beside baselines.

    Args:
        sample: `sample(module, tokenizer, prompts) -> texts`, for samples through training; wired by the pipeline.

    Raises:
        FoundlingError: a base model of another vocabulary, too little text, or what the loop refuses.
    """
    tokens, base = inputs["tokens"], inputs.get("base")
    log = draft.scratch / LOG
    parts = prepare(config, tokens.path, base.path if base else None)
    if config.processes > 1:
        where = (tokens.path, base.path if base else None, draft.scratch, log, tokens.key)
        summary = together(config, parts, *where)
    else:
        summary = _alone(config, parts, draft, log, tokens, sample)
    draft.seeds["pretrain"] = config.seed
    draft.metrics |= scores(summary, parts)
    draft.timings |= {"tokens_per_s": summary.tokens_per_s, "mfu": summary.mfu, "training_seconds": summary.seconds}
    write_model(parts, draft, log, card=_card(config, draft, inputs))


def _alone(
    config: PretrainConfig, parts: Preparation, draft: Draft, log: Path, tokens: Artifact, sample: SampleTexts | None
) -> TrainingSummary:
    kept = draft.scratch / KEPT
    if not parts.module.config.causal:  # it does not continue texts
        sample = None
    summary = Trainer(
        parts.module.to(device()),
        Prefetched(parts.objective),
        config,
        draft.scratch,
        log=log,
        evaluate=parts.evaluate,
        sample=partial(sample, tokenizer=parts.tokenizer, prompts=list(config.prompts)) if sample else None,
        after_step=partial(keep_model, config, parts.tokenizer, kept) if config.keep_every else None,
        data=tokens.key,
        flops_per_token=parts.module.config.flops_per_token(config.context, training=True),
        title="pretrain",
    ).fit()
    if kept.is_dir():
        kept.rename(draft.path / KEPT)
    return summary


def keep_model(config: PretrainConfig, tokenizer: Tokenizer, folder: Path, step: int, module: nn.Module) -> None:
    """Write the model of every `keep_every`-th step but the last into a model directory of its own."""
    if step % config.keep_every or step == config.steps:
        return
    target = folder / f"step-{step:08d}"
    draft = folder / f".{target.name}"
    shutil.rmtree(draft, ignore_errors=True)
    save_module(cast(LanguageModel, module), draft)
    tokenizer.save(draft)
    shutil.rmtree(target, ignore_errors=True)  # a resumed run comes by the same step again
    draft.rename(target)


def scores(summary: TrainingSummary, parts: Preparation) -> dict[str, object]:
    """The manifest's metrics: the model's bits per byte beside those of gzip, xz and a trigram model."""
    config, held_out = parts.module.config, parts.held_out
    texts = [parts.tokenizer.decode(ids[1:].tolist(), skip_special=False) for ids in held_out.documents_tokens()]
    baselines = compression_baselines(texts)
    baselines["token trigram"] = token_ngram_bits_per_byte(parts.train, held_out)
    return {
        "parameters": config.n_parameters(),
        "steps": summary.steps,
        "tokens": summary.tokens,
        "training_flops": summary.tokens * config.flops_per_token(held_out.context, training=True),
        "training_loss": summary.loss,
        **_rows(parts.objective),
        "validation_bytes": held_out.bytes,
        **{f"validation_{name}": value for name, value in summary.evaluation.items()},
        "baseline_bits_per_byte": baselines,
    }


def _rows(objective: Objective) -> dict[str, object]:
    """What of the documents the rows lose: documents cut at a row's end, and padding."""
    if not isinstance(objective, Causal):
        return {}
    rows = objective.windows
    return {"split_documents": rows.split_documents, "padding_share": rows.padding}


def write_model(parts: Preparation, draft: Draft, log: Path, card: str) -> None:
    """The artifact's files: weights and config, tokenizer, card, log."""
    save_module(parts.module, draft.path)
    parts.tokenizer.save(draft.path)
    (draft.path / "README.md").write_text(card, encoding="utf-8")
    shutil.copyfile(log, draft.path / LOG)


def _card(config: PretrainConfig, draft: Draft, inputs: Inputs) -> str:
    metrics = draft.metrics
    baselines = metrics["baseline_bits_per_byte"]
    own = {name: metrics[name] for name in ("validation_bits_per_byte", "validation_loss") if name in metrics}
    results = {"this model": next(iter(own.values()))} | baselines
    base = inputs.get("base")
    about = (
        "continued from a base model" if base else f"the architecture `{config.preset}`, trained from random weights"
    )
    task, does = "text-generation", "It continues text; it has not been taught to follow instructions."
    if config.objective in BOTH_WAYS:
        task = "fill-mask"
        does = "It sees a text from both sides and fills in hidden tokens; it does not continue texts."
    return model_card(
        "Base language model",
        f"A model of {metrics['parameters']:,} parameters, {about} on {metrics['tokens']:,} tokens. {does}",
        inputs=inputs,
        recipe=json.loads(config.model_dump_json()),
        results={_CAPTIONS[next(iter(own))]: results},
        limits=(
            "Small and briefly trained: its text is fluent at best over a few lines, and its statements are not facts.",
            "Scored on text from the same sources as its training text; other text will score worse.",
        ),
        task=task,
    )
