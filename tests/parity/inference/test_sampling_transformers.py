"""The sampling steps remove the same tokens as transformers' processors."""

from __future__ import annotations

import pytest
import torch
from transformers.generation import logits_process as theirs

from foundling.inference import sampling as ours

CASES = {
    "top_k": [(k, theirs.TopKLogitsWarper(k)) for k in (1, 5, 1000)],
    "top_p": [(p, theirs.TopPLogitsWarper(p)) for p in (0.05, 0.5, 0.9, 0.999)],
    "min_p": [(p, theirs.MinPLogitsWarper(p)) for p in (0.01, 0.1, 0.9)],
}


@pytest.mark.parametrize(("name", "value", "warper"), [(n, *case) for n, cases in CASES.items() for case in cases])
def test_step_equals_transformers(name: str, value: float, warper: theirs.LogitsProcessor) -> None:
    """Guards against keeping one token more or less than the definition."""
    scores = torch.randn(40, 1000, generator=torch.Generator().manual_seed(0)) * 3
    expected = warper(torch.zeros(40, 1, dtype=torch.int64), scores)
    values = torch.full((40,), value, dtype=torch.int64 if isinstance(value, int) else torch.float32)
    assert torch.equal(getattr(ours, name)(scores, values), expected)
