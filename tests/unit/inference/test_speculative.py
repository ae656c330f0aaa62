"""Speculation changes the speed and nothing else: same tokens, greedy and sampled."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.inference.conftest import tiny_config

from foundling.core.errors import FoundlingError
from foundling.inference.engine import Engine, Request, SamplingParams
from foundling.inference.speculative import DraftModel, HeadDraft, NgramLookup, Pace, Proposer
from foundling.models.build import build
from foundling.models.draft_head import DraftHead
from foundling.models.language_model import LanguageModel


def nearly(module: LanguageModel, noise: float) -> LanguageModel:
    """A draft model that agrees often, but not always."""
    other = build(module.config, seed=1)
    other.load_state_dict(module.state_dict())
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * noise * parameter.std())
    return other.to(next(module.parameters()).dtype).eval()


@settings(max_examples=10, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    kind=st.sampled_from(["ngram", "same", "near", "head"]),
    max_batch=st.integers(1, 5),
    room=st.sampled_from([128, 300, 2000]),
    budget=st.sampled_from([6, 40]),
)
def test_same_tokens_with_and_without(
    exact: LanguageModel, seed: int, kind: str, max_batch: int, room: int, budget: int
) -> None:
    """Guards against accepting a wrong guess, stale cache after a rejected one, and guesses lost to the budget."""
    rng = random.Random(seed)
    requests = []
    for temperature in (0.0, 0.0, 0.8, 1.5):
        prompt = [rng.randrange(4) for _ in range(rng.randrange(1, 40))]
        penalty = rng.choice([0.0, 0.5])
        params = SamplingParams(
            max_tokens=20, temperature=temperature, seed=seed, ignore_eos=True, n=rng.choice([1, 2]),
            frequency_penalty=penalty, top_p=0.95,
        )  # fmt: skip
        requests.append(Request(prompt, params))
    proposer: Proposer
    if kind == "ngram":
        proposer = NgramLookup(4, shortest=1)
    elif kind == "head":
        proposer = HeadDraft(DraftHead(exact.config.dim, 3))
    else:
        proposer = DraftModel(nearly(exact, 0.0 if kind == "same" else 0.1), 3)
    engine = Engine(
        exact, None, max_batch=max_batch, max_tokens_in_cache=room, max_tokens_per_step=budget, speculate=proposer
    )
    plain = Engine(exact, None).generate(requests)
    guessed = engine.generate(requests)
    assert [one.tokens for one in guessed] == [one.tokens for one in plain]
    for one, other in zip(guessed, plain, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)
    assert engine.scheduler.blocks.n_free == engine.scheduler.blocks.n_blocks


def test_a_perfect_draft_is_always_right(module: LanguageModel) -> None:
    """Guards against guesses that are one position off: exact, but never accepted."""
    engine = Engine(module, None, speculate=DraftModel(nearly(module, 0.0), most=4))
    engine._stepper.pace.rates = {True: 2.0, False: 1.0}
    for temperature in (0.0, 1.0):
        params = SamplingParams(max_tokens=41, temperature=temperature, seed=5, ignore_eos=True)
        engine.generate([Request([1, 2, 3], params)])
    stats = engine.stats()
    assert stats.accepted_tokens == stats.drafted_tokens > 20


def test_lookup_finds_what_followed() -> None:
    """Guards against guessing what came before, or from the ending itself."""
    lookup = NgramLookup(most=3)
    assert lookup.guess([5, 6, 7, 8, 9, 1, 5, 6], 3) == [7, 8, 9]
    assert lookup.guess([1, 2, 1, 2, 1, 2], 3) == [1, 2]
    assert lookup.guess([1, 2, 3], 3) == [] == lookup.guess([4], 3)


def test_it_turns_itself_off_when_it_does_not_pay() -> None:
    """Guards against a draft that makes everything slower for ever."""
    pace = Pace()
    for _ in range(Pace.TRIAL * 2):
        pace.record(1, 0.02 if pace.speculate() else 0.01)
    assert not any((pace.speculate(), pace.record(1, 0.01))[0] for _ in range(Pace.REST))
    assert pace.speculate() and pace.speedup == pytest.approx(0.5)


def test_draft_of_another_vocabulary_is_refused(module: LanguageModel) -> None:
    """Guards against guesses that mean other tokens."""
    config = tiny_config().model_copy(update={"vocab_size": 300})
    with pytest.raises(FoundlingError, match="300 tokens"):
        Engine(module, None, speculate=DraftModel(build(config, seed=0)))
