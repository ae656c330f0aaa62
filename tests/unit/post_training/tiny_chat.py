"""A tiny chat model on disk, built without transformers, and the stages run on it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Fast
from tokenizers import decoders, models, pre_tokenizers, trainers

from foundling.core.artifacts import Artifact, Draft
from foundling.core.config import parse
from foundling.core.stages import Inputs, load_attribute
from foundling.models.build import build
from foundling.models.checkpoint import save_module
from foundling.models.presets import preset
from foundling.post_training import config as configs
from foundling.tokenization.chat import CHATML
from foundling.tokenization.tokenizer import SPECIAL_TOKENS, Tokenizer

STAGES = {
    "SFTConfig": "foundling.post_training.sft:build_sft",
    "PreferConfig": "foundling.post_training.prefer:build_preferred",
    "RewardConfig": "foundling.post_training.reward_model:build_reward_model",
    "ReinforceConfig": "foundling.post_training.reinforce:build_reinforced",
    "ClassifyConfig": "foundling.post_training.classify:build_classifier",
    "ContrastConfig": "foundling.post_training.contrast:build_embedder",
}
SMALL = {"context": 96, "precision": "fp32", "log_every": 1, "batch_size": 4}


def make_tokenizer() -> Tokenizer:
    """A byte-level tokenizer with ChatML's template."""
    fast = Fast(models.BPE())
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    texts = ["the squares of the even numbers in xs", "[x ** 2 for x in xs if x % 2 == 0]", "sum of words and s"] * 9
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=list(SPECIAL_TOKENS), initial_alphabet=alphabet)
    fast.train_from_iterator(texts, trainer)
    names = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "chat_template": CHATML}
    return Tokenizer(fast, names)


def make_directory(path: Path) -> Path:
    """A random decoder with 5 small layers and a byte-level tokenizer."""
    tokenizer = make_tokenizer()
    tokenizer.save(path)
    shape = preset("foundling-1m", vocab_size=tokenizer.vocab_size, max_positions=256)
    save_module(build(shape.model_copy(update={"eos_token_id": tokenizer.eot_id}), seed=3, zero_outputs=False), path)
    return path


def run(name: str, base: Path, work: Path, judge: Path | None = None, **fields: Any) -> Draft:
    """Run a stage's function in the folder `work`, going on from whatever scratch files are there."""
    config = parse(getattr(configs, name), SMALL | fields, "test")
    draft = Draft(work / "files", work / "scratch", "0123456789abcdef")
    for path in (draft.path, draft.scratch):
        path.mkdir(parents=True, exist_ok=True)
    artifacts = {"base": Artifact.outside(base, "model")}
    if judge is not None:
        artifacts["reward"] = Artifact.outside(judge, "model")
    load_attribute(STAGES[name])(config, Inputs(artifacts), draft)
    return draft


def hashes(draft: Draft) -> dict[str, str]:
    """sha256 of every file that must be reproducible."""
    files = [p for p in sorted(draft.path.rglob("*")) if p.is_file() and not p.name.endswith(".log.jsonl")]
    return {p.relative_to(draft.path).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}
