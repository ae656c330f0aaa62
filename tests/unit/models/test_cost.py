"""The planner's numbers against counted ones."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from foundling.models.language_model import LanguageModel
from foundling.models.presets import LADDER, names, preset

CONTEXT = 256


@pytest.mark.parametrize("name", names())
def test_parameters_and_flops_equal_a_counted_pass(name: str) -> None:
    config = preset(name, vocab_size=4096 if name in LADDER else None)
    with torch.device("meta"):
        module = LanguageModel(config)
    assert config.n_parameters() == sum(parameter.numel() for parameter in module.parameters())
    with FlopCounterMode(display=False) as counter:
        logits = module(torch.zeros(1, CONTEXT, dtype=torch.int64, device="meta"))
    assert config.flops_per_token(CONTEXT) * CONTEXT == pytest.approx(counter.get_total_flops(), rel=0.02)
    if name in LADDER:
        with FlopCounterMode(display=False) as backward:
            logits.sum().backward()
        total = counter.get_total_flops() + backward.get_total_flops()
        assert config.flops_per_token(CONTEXT, training=True) * CONTEXT == pytest.approx(total, rel=0.05)


@pytest.mark.parametrize(
    ("name", "billions"), [("llama-2-7b", 6.74), ("llama-2-70b", 68.98), ("llama-3-8b", 8.03), ("qwen3-0.6b", 0.596)]
)
def test_published_counts(name: str, billions: float) -> None:
    assert preset(name).n_parameters() / 1e9 == pytest.approx(billions, rel=1e-3)


def test_cache_bytes() -> None:
    """Llama 3 8B in bfloat16: 32 layers x 2 x 8 heads x 128 x 2 bytes = 128 KiB a token."""
    assert preset("llama-3-8b").kv_bytes_per_token() == 128 * 1024
