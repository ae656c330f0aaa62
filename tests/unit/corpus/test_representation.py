"""The published under-representation table, to the digits shown."""

from __future__ import annotations

import pytest

from foundling.corpus.representation import representation

PUBLISHED = {  # language -> (millions of speakers, per cent of Common Crawl, ratio)
    "pan": (113, 0.0061, 231.56),
    "swa": (71, 0.0077, 115.26),
    "urd": (231, 0.0274, 105.38),
    "ben": (272, 0.0930, 36.56),
    "eng": (1452, 45.88, 0.40),
}


def test_published_ratios() -> None:
    rows = representation({code: percent / 100 for code, (_, percent, _) in PUBLISHED.items()})
    found = {row.code: row for row in rows if row.code in PUBLISHED}
    for code, (millions, _, ratio) in PUBLISHED.items():
        assert found[code].speakers_millions == millions
        assert round(found[code].ratio, 2) == ratio


def test_short_codes_and_missing_languages() -> None:
    rows = {row.code: row for row in representation({"en": 0.5, "eng": 0.1})}
    assert rows["eng"].corpus_share == pytest.approx(0.6)
    assert rows["hin"].ratio == float("inf")
