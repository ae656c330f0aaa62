"""A draft head: its loss against loops over places and guesses, its training, and its use by the engine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tests.unit.compression.test_distill import rows, run, tokens_of

from foundling.compression.distill_config import DistillConfig
from foundling.compression.draft_head import NEARER, Foresight
from foundling.compression.teachers import LocalTeacher
from foundling.core.artifacts import Artifact
from foundling.core.config import parse
from foundling.core.errors import FoundlingError
from foundling.inference.model import load
from foundling.inference.speculative import HeadDraft
from foundling.models.build import build
from foundling.models.checkpoint import save_module
from foundling.models.config import ModelConfig
from foundling.models.draft_head import DraftHead, load_draft_head
from foundling.models.families.foundling_patterns import blocks_of
from foundling.models.language_model import LanguageModel
from foundling.models.locate import DRAFT_HEAD
from foundling.tokenization.tokenizer import Tokenizer


def test_loss_is_the_loops(module: LanguageModel) -> None:
    """Against each place and guess by itself: a guess one place off would learn the wrong token."""
    batch = rows(module)
    torch.manual_seed(1)
    head = DraftHead(module.config.dim, 2)
    torch.nn.init.normal_(head.down.weight, std=0.1)
    found = Foresight(None, LocalTeacher(module), DistillConfig(draft_tokens=2)).loss(head, batch)  # type: ignore[arg-type]
    expected = 0.0
    with torch.no_grad():
        hidden, embedded = module.hidden(batch.tokens), module.embedding(batch.tokens)
        for r, t in ((r, t) for r in range(len(hidden)) for t in range(hidden.shape[1])):
            state = hidden[r, t]
            for k in range(1, min(3, hidden.shape[1] - t)):
                state = head(state, embedded[r, t + k])
                p, q = (module.head(x).double().log_softmax(-1) for x in (hidden[r, t + k], state))
                expected += NEARER ** (k - 1) * float((p.exp() * (p - q)).sum())
    assert float(found.total) == pytest.approx(expected, rel=1e-4)
    assert set(found.metrics) == {"foreseen_1", "foreseen_2"}


def test_stage_trains_a_head_that_the_engine_uses(directory: Path, tmp_path: Path) -> None:
    """It must come nearer to what the model says, change no token, have guesses accepted, and leave the model alone."""
    tokens = tokens_of(directory, tmp_path / "tokens")
    way = {"draft_tokens": 3, "steps": 60, "context": 32, "log_every": 1}
    path = run(way, tmp_path / "run", teacher=Artifact.outside(directory, "model"), tokens=tokens)
    lines = [json.loads(line) for line in (path / "training.log.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["kind"] == "step"]
    losses = [line["loss"] for line in steps]
    assert sum(losses[-20:]) < 0.8 * sum(losses[:20]) and set(steps[-1]["metrics"]) == {
        f"foreseen_{k}" for k in (1, 2, 3)
    }
    plain, guessing = load(directory), load(path)
    assert isinstance(guessing.engine._stepper.proposer, HeadDraft)
    guessing.engine._stepper.pace.rates = {True: 2.0, False: 1.0}
    for temperature in (0.0, 1.0):
        options = {"max_tokens": 40, "temperature": temperature, "seed": 1, "ignore_eos": True}
        assert guessing.generate("import os", **options).tokens == plain.generate("import os", **options).tokens
    assert guessing.engine.stats().accepted_tokens > 0
    assert (path / "model.safetensors").read_bytes() == (directory / "model.safetensors").read_bytes()


def test_a_head_is_saved_and_loaded(tmp_path: Path) -> None:
    head = DraftHead(16, 5)
    torch.nn.init.normal_(head.down.weight)
    head.save(tmp_path)
    again = load_draft_head(tmp_path)
    assert again is not None and again.most == 5 and torch.equal(again.down.weight, head.down.weight)
    (tmp_path / DRAFT_HEAD).unlink()
    assert load_draft_head(tmp_path) is None


def test_what_cannot_speculate_is_refused(directory: Path, tmp_path: Path) -> None:
    """A recurrent model, whose guesses cannot be taken back; and a head that should learn from answers."""
    config = ModelConfig(family="foundling", vocab_size=259, dim=32, blocks=blocks_of("mamba+mlp", 32, {}))
    save_module(build(config, 0), tmp_path / "mamba")
    Tokenizer.load(directory).save(tmp_path / "mamba")
    tokens = tokens_of(directory, tmp_path / "tokens")
    with pytest.raises(FoundlingError, match="recurrent state cannot speculate"):
        run({"draft_tokens": 3}, tmp_path / "run", teacher=Artifact.outside(tmp_path / "mamba", "model"), tokens=tokens)
    with pytest.raises(FoundlingError, match="learns from a teacher here on text"):
        parse(DistillConfig, {"draft_tokens": 3, "prompts": ["expressions"]}, "distill")
