"""Sampling on logits alone: exact distributions, and independence of everything but (seed, index)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from foundling.core.errors import FoundlingError
from foundling.inference.parameters import SamplingParams
from foundling.inference.sampling import SamplingRows, draw, probabilities, sample, uniforms


def rows(n: int, first: int = 0, seed: int = 7, **values: float) -> SamplingRows:
    """n equal rows at token indices first, first + 1, ..."""
    params = {"temperature": 1.0, "top_p": 1.0, "min_p": 0.0, "typical_p": 1.0, "top_k": 0, **values}
    return SamplingRows(
        temperature=np.full(n, params["temperature"], np.float32),
        top_k=np.full(n, params["top_k"], np.int64),
        top_p=np.full(n, params["top_p"], np.float32),
        min_p=np.full(n, params["min_p"], np.float32),
        typical_p=np.full(n, params["typical_p"], np.float32),
        seeds=np.full(n, seed, np.uint64),
        indices=np.arange(first, first + n),
    )


def test_temperature_gives_the_textbook_numbers() -> None:
    """T=1 on logits [1, 2] is [0.27, 0.73]; T=0.5 is [0.12, 0.88]; T=0 is greedy, not 0.8."""
    logits = torch.tensor([[1.0, 2.0]])
    assert probabilities(logits, rows(1))[0].tolist() == pytest.approx([0.27, 0.73], abs=0.005)
    assert probabilities(logits, rows(1, temperature=0.5))[0].tolist() == pytest.approx([0.12, 0.88], abs=0.005)
    assert sample(logits.expand(500, 2), rows(500, temperature=0)).unique().tolist() == [1]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 0.7},
        {"top_k": 5},
        {"top_p": 0.8},
        {"min_p": 0.2},
        {"typical_p": 0.7},
        {"top_k": 9, "top_p": 0.9, "min_p": 0.05},
    ],
)
def test_samples_follow_the_distribution(options: dict[str, float]) -> None:
    """Guards against a biased draw: chi-square over 20,000 draws, and nothing outside the support."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 50, generator=generator)
    expected = probabilities(logits, rows(1, **options))[0].double().numpy()
    drawn = sample(logits.expand(20_000, 50), rows(20_000, **options))
    counts = np.bincount(drawn.numpy(), minlength=50)
    assert counts[expected == 0].sum() == 0
    often = expected * 20_000 >= 5
    assert often.sum() > 2
    assert stats.chisquare(counts[often], expected[often] / expected[often].sum() * counts[often].sum()).pvalue > 1e-3


def test_draws_are_independent_across_indices_and_seeds() -> None:
    """Guards against correlated random numbers between neighbouring tokens or neighbouring seeds."""
    along = uniforms(np.full(20_000, 3, np.uint64), np.arange(20_000)).numpy()
    across = uniforms(np.arange(20_000, dtype=np.uint64), np.full(20_000, 3)).numpy()
    for values in (along, across):
        assert values.min() >= 0 and values.max() < 1
        assert stats.kstest(values, "uniform").pvalue > 1e-3
        assert abs(np.corrcoef(values[:-1], values[1:])[0, 1]) < 0.03


def test_a_row_does_not_depend_on_the_other_rows() -> None:
    """Guards against a shared random stream, and against parameters that leak from row to row."""
    logits = torch.randn(6, 300, generator=torch.Generator().manual_seed(1))
    mixed = SamplingRows(
        temperature=np.array([0, 1, 0.5, 2, 1, 1], np.float32),
        top_k=np.array([0, 3, 0, 0, 200, 0]),
        top_p=np.array([1, 1, 0.5, 0.99, 0.9, 1], np.float32),
        min_p=np.array([0, 0, 0, 0.1, 0, 0.3], np.float32),
        typical_p=np.array([1, 1, 1, 1, 0.7, 1], np.float32),
        seeds=np.arange(6, dtype=np.uint64),
        indices=np.array([5, 4, 3, 2, 1, 0]),
    )
    together = sample(logits, mixed).tolist()
    for i in range(6):
        one = SamplingRows(*(values[i : i + 1] for values in vars(mixed).values()))
        assert sample(logits[i : i + 1], one).tolist() == [together[i]]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=20).filter(any), st.floats(0, 1, exclude_max=True))
def test_a_token_without_probability_is_never_drawn(weights: list[float], uniform: float) -> None:
    """Guards against rounding at the ends of the cumulative distribution (uniform = 0, or just below 1)."""
    probs = torch.tensor([weights])
    if probs.sum() == 0:
        return
    token = int(draw(probs / probs.sum(), torch.tensor([uniform], dtype=torch.float32)))
    assert probs[0, token] > 0


@pytest.mark.parametrize(
    "wrong",
    [{"n": 0}, {"temperature": -1.0}, {"temperature": float("nan")}, {"top_p": 0.0}, {"min_p": 2.0}, {"max_tokens": 0},
     {"stop": ("",)}, {"top_k": -1}, {"logprobs": -1}],
)  # fmt: skip
def test_values_out_of_range_are_refused_by_name(wrong: dict[str, object]) -> None:
    """Guards against a request that silently means something else."""
    with pytest.raises(FoundlingError, match=next(iter(wrong))):
        SamplingParams.of(**wrong)


def test_unknown_parameters_are_refused_with_the_nearest() -> None:
    """Guards against dropping what was asked for."""
    with pytest.raises(FoundlingError, match="Did you mean 'temperature'"):
        SamplingParams.of(temprature=1.0)
