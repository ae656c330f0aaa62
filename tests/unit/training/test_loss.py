"""Chunked cross entropy against the plain one."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import VOCAB, TinyDecoder
from torch.nn import functional

from foundling.training.batch import Batch
from foundling.training.loss import cross_entropy_sum
from foundling.training.objectives.causal import next_token_loss
from foundling.training.precision import LossAt


def data(masked: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(VOCAB, (3, 11), generator=generator)
    targets = torch.randint(VOCAB, (3, 11), generator=generator)
    weights = torch.rand(3, 11, generator=generator)
    return tokens, targets, weights * (weights > 0.5) if masked else weights


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("z_loss", [0.0, 0.01])
@given(chunk=st.integers(1, 40))
@settings(max_examples=5, deadline=None)
def test_equals_the_plain_loss(tied: bool, masked: bool, z_loss: float, chunk: int) -> None:
    """Loss and every gradient must be those of unchunked cross entropy, whatever the chunks, also with a tied head."""
    tokens, targets, weights = data(masked)
    plain, chunked = TinyDecoder(tied=tied), TinyDecoder(tied=tied)
    logits = plain.head(plain.hidden(tokens)).flatten(0, 1)
    each = functional.cross_entropy(logits, targets.flatten(), reduction="none") + z_loss * logits.logsumexp(-1) ** 2
    expected = (each * weights.flatten()).sum()
    total = cross_entropy_sum(chunked.hidden(tokens), chunked, targets, weights, z_loss=z_loss, chunk=chunk)
    assert total.item() == pytest.approx(expected.item(), rel=1e-5)
    (expected * 0.5).backward()
    (total * 0.5).backward()
    for (name, a), b in zip(plain.named_parameters(), chunked.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-5, msg=name)
    with torch.no_grad():
        again = cross_entropy_sum(plain.hidden(tokens), plain, targets, weights, z_loss=z_loss, chunk=chunk)
    assert again.item() == pytest.approx(expected.item(), rel=1e-5)


def test_nothing_scored_is_zero_and_differentiable() -> None:
    """A micro-batch of prompts only must not stop the run."""
    tokens, targets, weights = data(False)
    module = TinyDecoder()
    total = cross_entropy_sum(module.hidden(tokens), module, targets, weights * 0)
    total.backward()
    assert total.item() == 0.0 and module.up.weight.grad is not None


@pytest.mark.parametrize("tied", [False, True])
def test_bf16_gradients_reach_the_fp32_weights(tied: bool) -> None:
    """The bf16 copy must pass gradients on, in fp32, near those of the fp32 pass; frozen weights must get none."""

    class Plain:
        def loss(self, model: TinyDecoder, batch: Batch):  # type: ignore[no-untyped-def]
            return next_token_loss(model, batch)

    batch = Batch(*data(False))
    grads = []
    for precision in ("fp32", "bf16"):
        module = TinyDecoder(tied=tied)
        module.up.weight.requires_grad_(False)
        LossAt(module, Plain(), precision).compute(batch).total.backward()  # type: ignore[arg-type]
        assert module.up.weight.grad is None
        grads.append([p.grad for p in module.parameters() if p.requires_grad])
    for exact, rounded in zip(*grads, strict=True):
        assert rounded is not None and exact is not None and rounded.dtype == torch.float32
        assert (rounded - exact).norm() < 0.03 * exact.norm()


def test_another_number_of_scored_positions_is_the_same_shape() -> None:
    """Each new shape would be compiled for a CPU and kept: 15 MB more at every step of a masked objective."""

    class Watched(TinyDecoder):
        seen: ClassVar[set[int]] = set()

        def head(self, h: torch.Tensor) -> torch.Tensor:
            self.seen.add(h.shape[0])
            return super().head(h)

    module = Watched()
    tokens = torch.randint(VOCAB, (4, 50))
    hidden = module.hidden(tokens)
    for scored in (70, 90, 101, 128):
        weights = (torch.randperm(200) < scored).float().view(4, 50)
        cross_entropy_sum(hidden, module, tokens, weights)
    assert module.seen == {128}
