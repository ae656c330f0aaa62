"""The sampling steps remove the same tokens as transformers' processors."""

from __future__ import annotations

import pytest
import torch
from transformers.generation import logits_process as theirs

from foundling.inference import penalties
from foundling.inference import sampling as ours

CASES = {
    "top_k": [(k, theirs.TopKLogitsWarper(k)) for k in (1, 5, 1000)],
    "top_p": [(p, theirs.TopPLogitsWarper(p)) for p in (0.05, 0.5, 0.9, 0.999)],
    "typical_p": [(p, theirs.TypicalLogitsWarper(p)) for p in (0.2, 0.5, 0.95)],
    "min_p": [(p, theirs.MinPLogitsWarper(p)) for p in (0.01, 0.1, 0.9)],
}


@pytest.mark.parametrize(("name", "value", "warper"), [(n, *case) for n, cases in CASES.items() for case in cases])
def test_step_equals_transformers(name: str, value: float, warper: theirs.LogitsProcessor) -> None:
    """Guards against keeping one token more or less than the definition."""
    scores = torch.randn(40, 1000, generator=torch.Generator().manual_seed(0)) * 3
    expected = warper(torch.zeros(40, 1, dtype=torch.int64), scores)
    values = torch.full((40,), value, dtype=torch.int64 if isinstance(value, int) else torch.float32)
    assert torch.equal(getattr(ours, name)(scores, values), expected)


@pytest.mark.parametrize("seed", range(5))
def test_penalties_and_bans_equal_transformers(seed: int) -> None:
    """Guards against penalising with the wrong sign, the wrong tokens, or half-matched bad words."""
    generator = torch.Generator().manual_seed(seed)
    row = torch.randn(1, 50, generator=generator) * 3
    tokens = torch.randint(0, 50, (1, 30), generator=generator)
    ids = tokens[0].tolist()
    bad = [[7], [ids[-1], 9], [ids[-2], ids[-1], 11], [ids[-2], 12], [*ids, 13, 14, 15]]
    pairs = [
        (penalties.repetition_penalty(row[0], ids, 1.3), theirs.RepetitionPenaltyLogitsProcessor(1.3)),
        (penalties.logit_bias(row[0], {3: 2.5, 9: -1.0}), theirs.SequenceBiasLogitsProcessor({(3,): 2.5, (9,): -1.0})),
        (penalties.ban(row[0], penalties.completing(bad, ids)), theirs.NoBadWordsLogitsProcessor(bad, 49)),
        (penalties.ban(row[0], [49]), theirs.MinNewTokensLengthLogitsProcessor(25, 6, 49)),
    ]
    for ours_row, processor in pairs:
        assert torch.equal(ours_row, processor(tokens, row)[0])
