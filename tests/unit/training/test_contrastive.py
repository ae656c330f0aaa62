"""InfoNCE against a loop in float64: both ways, equal texts, own negatives; and embeddings beside padding."""

from __future__ import annotations

import math

import pytest
import torch

from foundling.models.build import build
from foundling.models.config import AttentionConfig, MLPConfig, ModelConfig, RopeConfig, uniform_blocks
from foundling.models.pooling import PoolingConfig
from foundling.training.objectives.contrastive import Contrastive, Embedder, Pair

PAIRS = [
    Pair([1, 2, 3], [4, 5], "a", ([9, 9, 8], [10, 11])),
    Pair([1, 2, 3], [6, 7, 8, 9], "a's other passage"),
    Pair([5], [10, 11], "b", ([12], [13, 14], [15])),
    Pair([6, 6], [4, 5], "another query of a's passage"),
    Pair([8, 3], [6, 7, 8, 9], "another query of a's other passage"),
    Pair([7, 8, 9, 10], [16], "c"),
]


class Looked(torch.nn.Module):
    """An embedder that looks vectors up: a text's is that of its sum."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Parameter(torch.nn.functional.normalize(torch.randn(64, 6), dim=-1))
        self.log_scale = torch.nn.Parameter(torch.tensor(math.log(20.0)))

    def embed(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return self.table[(tokens * mask.long()).sum(-1)]


def test_loss_equals_a_loop() -> None:
    """Guards what counts as a negative: all passages but those of the same query or text, and every pair's own."""
    torch.manual_seed(0)
    model, objective = Looked(), Contrastive(PAIRS, 8, len(PAIRS), 0, pad_id=0, negatives=2)
    found = objective.loss(model, objective.batch(0))
    vector = lambda ids: model.table.detach()[sum(ids)].double()  # noqa: E731
    near = lambda a, b: math.exp(20.0 * float(vector(a) @ vector(b)))  # noqa: E731
    total = 0.0
    for pair in PAIRS:
        answers = [p.passage for p in PAIRS if p.query == pair.query]
        askers = [p.query for p in PAIRS if p.passage == pair.passage]
        wrong = [p.passage for p in PAIRS] + [ids for p in PAIRS for ids in p.negatives[:2]]
        right = near(pair.query, pair.passage)
        forward = right + sum(near(pair.query, ids) for ids in wrong if ids not in answers)
        backward = right + sum(near(pair.passage, p.query) for p in PAIRS if p.query not in askers)
        total -= 0.5 * (math.log(right / forward) + math.log(right / backward))
    assert float(found.total.detach()) == pytest.approx(total, rel=1e-5) and found.count == len(PAIRS)
    found.total.backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


@pytest.mark.parametrize("mode", ["mean", "cls", "lasttoken"])
@pytest.mark.parametrize("causal", [True, False])
def test_padding_changes_no_embedding(mode: str, causal: bool) -> None:
    """Guards encoders, whose attention would see the padding, and the place of the last token."""
    mixer = AttentionConfig(n_heads=2, n_kv_heads=2, head_dim=16, rope=RopeConfig(), causal=causal)
    blocks = uniform_blocks(2, mixer, MLPConfig(hidden=64))
    module = build(ModelConfig(family="foundling", vocab_size=32, dim=32, blocks=blocks), 0, zero_outputs=False)
    embedder = Embedder(module, pooling=PoolingConfig.model_validate({"mode": mode})).eval()
    batch = Contrastive(PAIRS, 8, len(PAIRS), 0, pad_id=0).batch(0)
    with torch.no_grad():
        together = embedder.embed(batch.targets, batch.extra["passage_mask"])
        for row, vector in enumerate(together):
            ids = batch.targets[row][batch.extra["passage_mask"][row] > 0][None]
            hidden = module.hidden(ids)[0]
            expected = {"mean": hidden.mean(0), "cls": hidden[0], "lasttoken": hidden[-1]}[mode]
            torch.testing.assert_close(vector, expected / expected.norm(), atol=1e-6, rtol=1e-5)
    assert batch.read() == batch.tokens.numel() + batch.targets.numel()


def test_later_epochs_have_other_crops() -> None:
    """Guards the numbers that pairs are asked for: an index must run on, or every epoch shows the same crops."""

    class Counted(list):  # type: ignore[type-arg]
        def __len__(self) -> int:
            return 5

        def __getitem__(self, index: int) -> Pair:  # type: ignore[override]
            return Pair([index + 1], [index + 2], str(index))

    objective = Contrastive(Counted(), 8, 4, 0, pad_id=0)
    seen = [int(source) for step in range(5) for source in objective.batch(step).sources]
    assert sorted(seen) == list(range(20)) and [n // 5 for n in seen] == sorted(n // 5 for n in seen)
