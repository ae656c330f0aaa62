"""Stacks written as patterns, and their directories."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from foundling.core.errors import FoundlingError
from foundling.models.build import build
from foundling.models.checkpoint import load_module, save_module
from foundling.models.config import EmbeddingConfig, EncoderConfig, HeadConfig, ModelConfig
from foundling.models.families.foundling_patterns import blocks_of, pattern_of
from foundling.models.families.translate import config_from_hf, config_to_hf
from foundling.models.layers.recurrent_config import MambaConfig

EVERY = "mamba+mlp mamba2 s4+mlp h3+mlp rwkv4 rwkv4_channel rwkv7+mlp lstm+mlp gru attention+mlp"


def test_a_directory_of_free_parts_comes_back_equal(tmp_path: Path) -> None:
    """Guards against a part whose weights or settings are lost in the directory."""
    config = ModelConfig(family="foundling", vocab_size=50, dim=32, blocks=blocks_of(EVERY, 32))
    module = build(config, 0, zero_outputs=False).eval()
    save_module(module, tmp_path)
    again = load_module(tmp_path)
    assert again.config == config
    ids = torch.arange(40).view(2, 20) % 50
    with torch.no_grad():
        torch.testing.assert_close(again(ids), module(ids), rtol=0, atol=0)


def test_a_pattern_is_written_once_and_repeated() -> None:
    """Guards against config files as long as the model is deep, and against two sizes of a part under one name."""
    small, large = MambaConfig(inner=16, dt_rank=2), MambaConfig(inner=64, dt_rank=2)
    blocks = blocks_of("wide thin+mlp attention+mlp", 32, {"wide": large, "thin": small}, repeat=3)
    written = pattern_of(blocks)
    assert (written["pattern"], written["repeat"]) == ("mamba mamba_2+mlp attention+mlp", 3)
    assert blocks_of(written["pattern"], 32, written["parts"], repeat=3) == blocks


def test_an_encoder_decoder_of_recurrent_cells_comes_back_equal(tmp_path: Path) -> None:
    """Guards against fields beside the pattern (styles, encoder, head, norms) that are dropped in silence."""
    cross = {"n_heads": 2, "n_kv_heads": 2, "head_dim": 16, "causal": False}
    styles = {"attending": {"cross": cross}, "odd": {"norms": "post"}}
    config = ModelConfig(
        family="foundling",
        vocab_size=50,
        dim=32,
        blocks=blocks_of("lstm+mlp:attending gru:odd", 32, styles=styles),
        encoder=EncoderConfig(blocks=blocks_of("gru+mlp mamba", 32)),
        embedding=EmbeddingConfig(positions="sinusoidal", norm=True),
        head=HeadConfig(bias=True, softcap=20.0),
        final_norm=False,
    )
    module = build(config, 0, zero_outputs=False).eval()
    save_module(module, tmp_path)
    again = load_module(tmp_path)
    assert again.config == config
    ids, source = torch.arange(20).view(2, 10), torch.arange(14).view(2, 7)
    with torch.no_grad():
        expected = module(ids, encoder_tokens=source)
        torch.testing.assert_close(again(ids, encoder_tokens=source), expected, rtol=0, atol=0)
        assert not torch.equal(expected, module(ids, encoder_tokens=source + 1))


@pytest.mark.parametrize(
    ("pattern", "message"),
    [("mamba+", "mamba"), ("mambo+mlp", "Did you mean 'mamba'"), ("", "no block"), ("mlp+mlp", "as a mixer"),
     ("a+b+c", "a\\+b\\+c"), ("mamba:odd", "style 'odd'")],
)  # fmt: skip
def test_an_unreadable_pattern_is_explained(pattern: str, message: str) -> None:
    """Guards against a traceback, or a silently shortened stack, for a slip of the pen."""
    with pytest.raises(FoundlingError, match=message):
        blocks_of(pattern, 32)


def test_a_wrong_part_in_a_config_file_is_named() -> None:
    """Guards against a part's misspelt setting being ignored."""
    config = ModelConfig(family="foundling", vocab_size=50, dim=32, blocks=blocks_of("mamba", 32))
    data = config_to_hf(config)
    data["parts"]["mamba"]["sate"] = 4
    with pytest.raises(FoundlingError, match=r"config\.json: part 'mamba' as a mixer: .*sate"):
        config_from_hf(data, "config.json")
