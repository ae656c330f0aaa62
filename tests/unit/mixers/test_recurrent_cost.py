"""Costs of recurrent models, counted from the config, against the modules themselves."""

from __future__ import annotations

import pytest
import torch
from tests.unit.mixers.mixer_cases import CASES, DIM
from torch.utils.flop_counter import FlopCounterMode

from foundling.models.build import build
from foundling.models.config import ModelConfig
from foundling.models.cost import state_bytes
from foundling.models.families.foundling_patterns import blocks_of
from foundling.models.language_model import LanguageModel

STACKS = ["mamba mamba+mlp", "mamba2 mamba2+mlp", "rwkv4 rwkv4_channel", "rwkv7+mlp"]


@pytest.mark.parametrize("name", list(CASES))
def test_parameters_and_state_are_the_modules(name: str) -> None:
    """Guards against a cost formula that forgets a bias, a norm or a part of the state."""
    config = ModelConfig(
        family="foundling", vocab_size=9, dim=DIM, blocks=blocks_of("part", DIM, {"part": CASES[name]})
    )
    module = build(config, 0)
    assert config.n_parameters() == sum(parameter.numel() for parameter in module.parameters())
    (state,) = module.new_state(1, 1, 1, torch.float32, "cpu")
    assert state_bytes(config, 10_000, 4) == sum(part.nbytes for part in state)


@pytest.mark.parametrize("pattern", STACKS)
def test_flops_agree_with_a_counted_pass(pattern: str) -> None:
    """Guards the numbers behind plans, MFU and the equal-FLOPs comparison."""
    config = ModelConfig(family="foundling", vocab_size=64, dim=128, blocks=blocks_of(pattern, 128))
    module = build(config, 0)
    assert isinstance(module, LanguageModel)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(torch.zeros(2, 128, dtype=torch.int64))
    assert counter.get_total_flops() == pytest.approx(256 * config.flops_per_token(128), rel=0.02)
