"""Model: what is saved is what is loaded, and the convenience methods agree with the engine."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import foundling
from foundling.core.artifacts import Store
from foundling.core.errors import FoundlingError
from foundling.inference.model import Model
from foundling.models.language_model import LanguageModel
from foundling.tokenization.tokenizer import Tokenizer


def test_saved_and_loaded_model_answers_the_same(module: LanguageModel, tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Guards against a save that loses weights, tokenizer or configuration."""
    model = Model(module, tokenizer)
    model.save(tmp_path / "model")
    again = foundling.load(tmp_path / "model", Store(tmp_path / "store"))
    ids = tokenizer.encode("def f(x):")
    assert torch.equal(again.logits([ids]), model.logits([ids]))
    first, second = (m.generate("def f(x):", max_tokens=20, ignore_eos=True) for m in (model, again))
    assert first.text == second.text and first.tokens == second.tokens and first.text


def test_score_is_the_log_probability_of_the_text(module: LanguageModel, tokenizer: Tokenizer) -> None:
    """Guards against scores of other tokens than those of the continuation."""
    model = Model(module, tokenizer)
    ids = tokenizer.encode("ab")
    rows = model.logits([ids])[0].log_softmax(-1)
    assert model.score("a", "b") == pytest.approx(float(rows[0, ids[1]]), abs=1e-4)


def test_stream_is_the_same_text_in_pieces_and_can_be_left(module: LanguageModel, tokenizer: Tokenizer) -> None:
    """Guards against lost or repeated characters, and against a request that runs on when nobody listens."""
    model = Model(module, tokenizer)
    whole = model.generate("once", max_tokens=30, ignore_eos=True)
    events = list(model.stream("once", max_tokens=30, ignore_eos=True))
    assert "".join(event.text for event in events) == whole.text
    assert events[-1].finish_reason == "length" and events[-1].completion is not None
    assert events[-1].completion.text == whole.text
    stream = model.stream("once", max_tokens=30, ignore_eos=True)
    next(stream)
    stream.close()
    assert model.engine.scheduler.idle


def test_mistakes_are_named(module: LanguageModel, tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Guards against tracebacks for a user's mistake."""
    model = Model(module, tokenizer)
    with pytest.raises(FoundlingError, match="Did you mean 'top_p'"):
        model.generate("a", topp=0.5)
    with pytest.raises(FoundlingError, match="300 tokens"):
        model.generate("a" * 300)
    with pytest.raises(FoundlingError, match="no model"):
        foundling.load("nowhere", Store(tmp_path))
