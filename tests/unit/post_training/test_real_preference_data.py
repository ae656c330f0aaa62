"""Public preference and instruction sets, as they are published, through the importers."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from foundling.post_training.data import as_example, read_rows
from foundling.post_training.labelled import as_labelled
from foundling.post_training.pairs import as_pair

DATA = os.environ.get("FOUNDLING_DATA")


@pytest.mark.skipif(DATA is None, reason="FOUNDLING_DATA names no folder of real data")
@pytest.mark.parametrize(
    ("name", "convert", "read", "skipped"),
    [
        ("pref/dpo_en_demo_300.jsonl.gz", as_pair, 300, 0),
        ("pref/hh_helpful_base_test.jsonl.gz", as_pair, 2348, 6),
        ("pref/kto_en_demo_300.jsonl.gz", as_labelled, 300, 0),
        ("sft/dolly_hhrlhf_1k.jsonl.gz", as_example, 1000, 0),
        ("sft/glaive_toolcall_300.jsonl.gz", as_example, 300, 0),
    ],
)
def test_published_rows_are_read_or_counted(name: str, convert: Any, read: int, skipped: int) -> None:
    """Guards the importers against real files: every row is used or counted under its reason."""
    counts: Counter[str] = Counter()
    rows = read_rows(Path(str(DATA)) / name, convert, "skip", counts)
    assert (len(rows), sum(counts.values())) == (read, skipped)
