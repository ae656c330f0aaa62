"""Choosing a size for a budget."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from foundling.core.hardware import Rates
from foundling.models.presets import names
from foundling.planning.choose import LADDER, MAX_STEPS, MIN_STEPS, choose_size


@given(budget=st.floats(1, 1e6), rate=st.floats(1e10, 1e15))
def test_always_a_preset_and_a_sane_number_of_steps(budget: float, rate: float) -> None:
    """A plan must never ask for zero steps or a preset that is not there."""
    preset, steps = choose_size(budget, Rates(1e10, rate / 4, rate, 2, "cpu"))
    assert preset in names() and MIN_STEPS <= steps <= MAX_STEPS


def test_more_time_never_gives_a_smaller_model() -> None:
    """A bigger budget that buys a worse model is a hole in the ladder."""
    order = list(LADDER)
    sizes = [
        order.index(choose_size(seconds, Rates(3e10, 1.5e11, 4e11, 2, "cpu"))[0]) for seconds in range(20, 20000, 60)
    ]
    assert sizes == sorted(sizes) and sizes[0] < sizes[-1]


def test_the_quickstart_on_two_cores() -> None:
    """Three and a half minutes on the machine of the baselines must be about a million tokens or more."""
    preset, steps = choose_size(216, Rates(2.9e10, 1.5e11, 4.1e11, 2, "cpu"))
    assert preset == "foundling-2m" and 300 <= steps <= 600
