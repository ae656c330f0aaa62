"""In bf16 training the parameters that set decays, step sizes and frequencies stay as they are."""

from __future__ import annotations

import pytest
import torch

from foundling.models.build import build
from foundling.models.config import ModelConfig
from foundling.models.families.foundling_patterns import blocks_of
from foundling.models.language_model import LanguageModel
from foundling.models.layers.s4_space import DiagonalSpace
from foundling.training.batch import Batch
from foundling.training.loss import next_token_loss
from foundling.training.objective import LossSum
from foundling.training.precision import LossAt, exact_parameters


class Plain:
    def batch(self, step: int, model: object = None) -> Batch:
        raise NotImplementedError

    def loss(self, model: object, batch: Batch) -> LossSum:
        hidden = model.hidden(batch.tokens)
        self.seen = hidden.detach().float()
        return next_token_loss(model, batch)


def difference() -> float:
    """Relative error of a bf16 pass's hidden states at the end of a long row of an S4 stack."""
    torch.manual_seed(0)
    config = ModelConfig(family="foundling", vocab_size=16, dim=32, blocks=blocks_of("s4", 32))
    module = build(config, 0, zero_outputs=False)
    assert isinstance(module, LanguageModel)
    tokens = torch.randint(0, 16, (2, 512))
    batch = Batch(tokens, tokens, torch.ones(2, 512))
    seen = {}
    for precision in ("fp32", "bf16"):
        objective = Plain()
        LossAt(module, objective, precision).compute(batch)
        seen[precision] = objective.seen[:, -64:]
    return float((seen["bf16"] - seen["fp32"]).norm() / seen["fp32"].norm())


def test_frequencies_are_not_rounded_in_bf16_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against training one state space (rounded frequencies) and evaluating another (the fp32 weights)."""
    assert difference() < 0.02
    monkeypatch.setattr(DiagonalSpace, "EXACT", ())
    assert difference() > 0.02


def test_every_recurrent_mixer_names_parameters_that_exist() -> None:
    """Guards against a parameter that is renamed in the module and not in EXACT."""
    pattern = "mamba mamba2 s4 h3 rwkv4 rwkv7"
    config = ModelConfig(family="foundling", vocab_size=16, dim=32, blocks=blocks_of(pattern, 32))
    module = build(config, 0)
    exact = exact_parameters(module)
    assert exact <= {name for name, _ in module.named_parameters()}
    assert {"blocks.0.mixer.A_log", "blocks.0.mixer.dt_proj.bias", "blocks.3.mixer.space.frequency"} <= exact
