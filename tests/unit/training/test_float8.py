"""Training with products in 8-bit floats, against the same products of the rounded numbers in float64."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from processes_worker import shape
from tiny import write_tokens
from torch import nn

from foundling.core.errors import FoundlingError
from foundling.models.build import build
from foundling.models.layers.block import Block
from foundling.training.config import TrainingConfig
from foundling.training.float8 import BACKWARD, FORWARD, to_float8, use_float8
from foundling.training.objectives.causal import Causal
from foundling.training.token_files import TokenSplit
from foundling.training.trainer import Trainer


class Layers(Block):
    """Some layers as if they were a model's block."""

    def __init__(self, *layers: nn.Module) -> None:
        nn.Module.__init__(self)
        self.layers = nn.ModuleList(layers)


def rounded(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    x8, scale = to_float8(x, dtype)
    return x8.double() * scale.double()


def test_products_and_gradients_are_those_of_the_rounded_numbers() -> None:
    """Forward e4m3 · e4m3, backward e5m2 · e4m3: all that may be lost after the rounding is the result's own."""
    torch.manual_seed(0)
    layer = nn.Linear(32, 48)
    use_float8(Layers(layer))
    x = (torch.randn(2, 16, 32) * 3).requires_grad_()
    y = layer(x)
    went = torch.randn_like(y)
    y.backward(went)
    flat, flat_went = x.detach().flatten(0, 1), went.flatten(0, 1)
    x8, w8, g8 = rounded(flat, FORWARD), rounded(layer.weight.detach(), FORWARD), rounded(flat_went, BACKWARD)
    for found, expected in (
        (y.detach().flatten(0, 1), x8 @ w8.T + layer.bias.detach().double()),
        (x.grad.flatten(0, 1), g8 @ w8),  # type: ignore[union-attr]
        (layer.weight.grad, g8.T @ x8),
        (layer.bias.grad, flat_went.double().sum(0)),
    ):
        assert found is not None
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)


def test_to_float8_uses_the_whole_range_and_survives_zeros() -> None:
    """The largest value must be exact, and a tensor of zeros no division by zero."""
    x = torch.tensor([0.1, -7.3, 2.0])
    for dtype in (FORWARD, BACKWARD):
        assert rounded(x, dtype)[1] == pytest.approx(-7.3, rel=1e-6)
    assert rounded(torch.zeros(4), FORWARD).tolist() == [0, 0, 0, 0]


def test_what_does_not_fit_stays_as_it_is() -> None:
    """Other sizes, other row counts and eval mode take the plain product; without any fitting layer it is refused."""
    odd, even = nn.Linear(20, 48), nn.Linear(32, 48)
    use_float8(Layers(odd, even))
    for layer, rows in ((odd, 16), (even, 7), (even.eval(), 16)):
        x = torch.randn(rows, layer.in_features)
        assert torch.equal(layer(x), nn.functional.linear(x, layer.weight, layer.bias))
    with pytest.raises(FoundlingError, match="multiples of 16"):
        use_float8(Layers(nn.Linear(20, 48)))


def test_a_model_learns_as_it_does_in_bf16(tmp_path: Path) -> None:
    """Thirty steps must come within two hundredths of a nat of bf16's, and not be the same run."""
    split = TokenSplit(write_tokens(tmp_path / "tokens"), "train")
    losses = []
    for precision in ("bf16", "fp8"):
        config = TrainingConfig(steps=30, batch_size=8, context=16, precision=precision, learning_rate=0.003)  # type: ignore[arg-type]
        module = build(shape(split.vocab_size), 0, zero_outputs=False)
        folder = tmp_path / precision
        trainer = Trainer(module, Causal(split, 16, 8, 0), config, folder, log=folder / "log.jsonl")
        losses.append(trainer.fit().loss)
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], abs=0.02)
