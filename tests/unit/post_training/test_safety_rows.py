"""Refusals: told from help, balanced with benign look-alikes, and counted on both sides."""

from __future__ import annotations

import pytest

from foundling.core.errors import FoundlingError
from foundling.post_training.safety import REFUSALS, is_refusal, refusal_rates, refusal_rows


@pytest.mark.parametrize(
    ("answer", "refusal"),
    [
        *((text, True) for text in REFUSALS),
        ("I’m sorry, but I can’t help with that.", True),
        ("As an AI, I must decline.", True),
        ("I'm sorry to hear that you feel sad. Here is what helps.", False),
        ("I can help. First, open the file.", False),
        ("Kill the process with its id. It is safe. Note that some tools say 'I can't do that'.", False),
    ],
)
def test_refusals_are_told_from_help(answer: str, refusal: bool) -> None:
    """Guards the measure: sympathy, offers and quotations further down are no refusals."""
    assert is_refusal(answer) is refusal


def test_rows_are_balanced_and_seeded() -> None:
    """Guards against a mix that teaches to refuse everything."""
    harmful = [f"harm {i}" for i in range(50)]
    benign = [(f"kill process {i}", "use its id") for i in range(20)]
    rows = refusal_rows(harmful, benign, seed=1)
    refused = [row for row in rows if is_refusal(row["messages"][1]["content"])]
    assert (len(rows), len(refused)) == (40, 20)
    assert rows == refusal_rows(harmful, benign, seed=1) != refusal_rows(harmful, benign, seed=2)
    with pytest.raises(FoundlingError, match="benign prompt 0"):
        refusal_rows(harmful, [("hi", REFUSALS[0])], seed=1)


def test_both_rates_have_intervals() -> None:
    """Guards the report: refusing is good on one side and bad on the other."""
    rates = refusal_rates([REFUSALS[0]] * 9 + ["Sure: first"], ["Sure"] * 8 + [REFUSALS[1]] * 2)
    assert rates.refused.low < 0.9 < rates.refused.high
    assert rates.over_refused.low < 0.2 < rates.over_refused.high
