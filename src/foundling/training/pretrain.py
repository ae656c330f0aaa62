"""The stage `pretrain`: token shards, and perhaps a base model, to a model directory."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

from torch import nn

from foundling.core.artifacts import Artifact, Draft
from foundling.core.errors import FoundlingError
from foundling.core.stages import Inputs
from foundling.corpus.baselines import compression_baselines
from foundling.models.build import build
from foundling.models.checkpoint import load_module, save_module
from foundling.models.language_model import LanguageModel
from foundling.models.presets import preset
from foundling.tokenization.tokenizer import Tokenizer
from foundling.training.baselines import token_ngram_bits_per_byte
from foundling.training.bits_per_byte import HeldOut
from foundling.training.config import PretrainConfig
from foundling.training.model_card import model_card
from foundling.training.objectives.causal import Causal
from foundling.training.token_files import TokenSplit
from foundling.training.trainer import Trainer, TrainingSummary

SampleTexts = Callable[[nn.Module, Tokenizer, list[str]], list[str]]
LOG = "training.log.jsonl"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
PROBE = "def probe(x):\n    return 'Grüße, 世界' + str(x ** 2)  # 1234567890\n"  # two tokenizers that agree on it are one


def build_pretrained(config: PretrainConfig, inputs: Inputs, draft: Draft, sample: SampleTexts | None = None) -> None:
    """Train on the tokens and write a Hugging Face model directory, its card, and its scores beside baselines.

    Args:
        sample: `sample(module, tokenizer, prompts) -> texts`, for samples through training; wired by the pipeline.

    Raises:
        FoundlingError: a base model of another vocabulary, too little text, or what the loop refuses.
    """
    tokens = inputs["tokens"]
    tokenizer = Tokenizer.load(tokens.path)
    train, validation = TokenSplit(tokens.path, "train"), TokenSplit(tokens.path, "validation")
    held_out = HeldOut(validation, config.context, config.validation_tokens)
    module = start(config, inputs.get("base"), train, tokenizer)
    log = draft.scratch / LOG
    trainer = Trainer(
        module,
        Causal(train, config.context, config.batch_size, config.seed, document_mask=config.document_mask),
        config,
        draft.scratch,
        log=log,
        evaluate=held_out.score,
        sample=partial(sample, tokenizer=tokenizer, prompts=list(config.prompts)) if sample else None,
        data=tokens.key,
        flops_per_token=module.config.flops_per_token(config.context, training=True),
        title="pretrain",
    )
    summary = trainer.fit()
    draft.seeds["pretrain"] = config.seed
    draft.metrics |= scores(summary, held_out, train, tokenizer, module)
    draft.timings |= {"tokens_per_s": summary.tokens_per_s, "mfu": summary.mfu, "training_seconds": summary.seconds}
    write_model(module, tokens.path, draft, log, card=_card(config, draft, inputs))


def start(config: PretrainConfig, base: Artifact | None, train: TokenSplit, tokenizer: Tokenizer) -> LanguageModel:
    """The model to train: a preset with random weights, or the base model, if its vocabulary is the tokens'."""
    if base is None:
        shape = preset(config.preset, vocab_size=train.vocab_size, max_positions=max(2048, config.context))
        ids = {"eos_token_id": tokenizer.eot_id, "pad_token_id": tokenizer.pad_id, "bos_token_id": tokenizer.bos_id}
        return build(shape.model_copy(update=ids), config.seed)
    module = load_module(base.path)
    if module.config.vocab_size < train.vocab_size:
        what = f"the base model has a vocabulary of {module.config.vocab_size} and the tokens one of {train.vocab_size}"
        raise FoundlingError(what, "they were made with another tokenizer", "Tokenize the corpus with the base's tokenizer")
    if Tokenizer.load(base.path).encode(PROBE) != tokenizer.encode(PROBE):
        what = "the tokens were made with another tokenizer than the base model's"
        raise FoundlingError(what, fix="Tokenize the corpus with the base as the `tokenizer` input")
    return module


def scores(
    summary: TrainingSummary, held_out: HeldOut, train: TokenSplit, tokenizer: Tokenizer, module: LanguageModel
) -> dict[str, object]:
    """The manifest's metrics: the model's bits per byte beside those of gzip, xz and a trigram model."""
    split = held_out.split
    texts = [tokenizer.decode(split.document(i)[1:].tolist(), skip_special=False) for i in range(held_out.documents)]
    baselines = compression_baselines(texts)
    baselines["token trigram"] = token_ngram_bits_per_byte(train, held_out)
    return {
        "parameters": module.config.n_parameters(),
        "steps": summary.steps,
        "tokens": summary.tokens,
        "training_flops": summary.tokens * module.config.flops_per_token(held_out.context, training=True),
        "training_loss": summary.loss,
        "validation_bytes": held_out.bytes,
        "validation_nats_per_token": summary.evaluation["nats_per_token"],
        "validation_bits_per_byte": summary.evaluation["bits_per_byte"],
        "baseline_bits_per_byte": baselines,
    }


def write_model(module: LanguageModel, tokenizer_from: Path, draft: Draft, log: Path, card: str) -> None:
    """The artifact's files: weights and config, tokenizer, card, log."""
    save_module(module, draft.path)
    for name in TOKENIZER_FILES:
        shutil.copyfile(tokenizer_from / name, draft.path / name)
    (draft.path / "README.md").write_text(card, encoding="utf-8")
    shutil.copyfile(log, draft.path / LOG)


def _card(config: PretrainConfig, draft: Draft, inputs: Inputs) -> str:
    metrics = draft.metrics
    baselines = metrics["baseline_bits_per_byte"]
    results = {"this model": metrics["validation_bits_per_byte"]} | baselines
    base = inputs.get("base")
    about = "continued from a base model" if base else f"the architecture `{config.preset}`, trained from random weights"
    return model_card(
        "Base language model",
        f"A decoder of {metrics['parameters']:,} parameters, {about} on {metrics['tokens']:,} tokens. "
        "It continues text; it has not been taught to follow instructions.",
        inputs={port: f"{artifact.kind} `{artifact.key}`" for port, artifact in inputs.items()},
        recipe=json.loads(config.model_dump_json()),
        results={"Bits per byte on held-out text (lower is better)": results},
        limits=(
            "Small and briefly trained: its text is fluent at best over a few lines, and its statements are not facts.",
            "Scored on text from the same sources as its training text; other text will score worse.",
        ),
    )
