"""Recurrent families' logits against transformers' on the same random weights, both directions."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, JambaConfig, Mamba2Config, MambaConfig, RwkvConfig
from transformers import PretrainedConfig as HFConfig

from foundling.core.errors import FoundlingError
from foundling.models.checkpoint import load_module, save_module
from foundling.models.context import CacheView, Context
from foundling.models.families.translate import config_from_hf
from foundling.models.language_model import LanguageModel
from foundling.models.presets import preset

SHAPE = {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 3}
MAMBA2 = {**SHAPE, "num_heads": 8, "head_dim": 8, "state_size": 8, "chunk_size": 8}
JAMBA = {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 40, "mamba_d_state": 5}
JAMBA |= {"attn_layer_period": 3, "attn_layer_offset": 1, "num_experts_per_tok": 2}
CASES = {
    "mamba": MambaConfig(**SHAPE),
    "mamba-biases-untied": MambaConfig(
        **SHAPE, use_bias=True, use_conv_bias=False, tie_word_embeddings=False, state_size=5, expand=1, conv_kernel=3
    ),
    "mamba-rank": MambaConfig(**SHAPE, time_step_rank=7, layer_norm_epsilon=1e-3),
    "mamba2": Mamba2Config(**MAMBA2, n_groups=2),
    "mamba2-limits": Mamba2Config(
        **MAMBA2, n_groups=1, use_bias=True, time_step_limit=(0.01, 0.5), tie_word_embeddings=True
    ),
    "jamba": JambaConfig(**SHAPE, **JAMBA, num_experts=3, router_aux_loss_coef=0.0),
    "jamba-dense": JambaConfig(**SHAPE, **JAMBA, num_experts=1, mamba_dt_rank=5, mamba_proj_bias=True, mamba_expand=1),
    "rwkv": RwkvConfig(**SHAPE, attention_hidden_size=32, intermediate_size=56),
}


@pytest.fixture(params=CASES)
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[torch.nn.Module, LanguageModel]:
    """The same random model in transformers and here, passed through a directory."""
    config: HFConfig = CASES[request.param]
    torch.manual_seed(0)
    reference = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():  # default norms are all ones and biases zero: swapped ones would go unnoticed
        for parameter in reference.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    reference.save_pretrained(tmp_path)
    return reference.eval(), load_module(tmp_path)


def tokens(rows: int, time: int) -> Tensor:
    return torch.randint(0, SHAPE["vocab_size"], (rows, time), generator=torch.Generator().manual_seed(1))


def logits(reference: torch.nn.Module, ids: Tensor) -> Tensor:
    return reference(ids, use_cache=False).logits


@torch.no_grad()
def test_logits_equal_with_padding_and_packed_documents(pair: tuple) -> None:
    reference, ours = pair
    ids = tokens(2, 24)
    expected = logits(reference, ids)
    torch.testing.assert_close(ours(ids), expected, atol=1e-4, rtol=0)

    segments = torch.tensor([[0] * 24, [0] * 17 + [-1] * 7])  # padding at the end changes nothing before it
    padded = ours(ids, Context.packed(segments))
    torch.testing.assert_close(padded[segments == 0], expected[segments == 0], atol=1e-4, rtol=0)

    packed = ours(ids, Context.packed(torch.tensor([[0] * 9 + [1] * 15]).expand(2, -1)))
    torch.testing.assert_close(packed[:, :9], logits(reference, ids[:, :9]), atol=1e-4, rtol=0)
    torch.testing.assert_close(packed[:, 9:], logits(reference, ids[:, 9:]), atol=1e-4, rtol=0)


@torch.no_grad()
def test_cached_decoding_equals_the_full_pass(pair: tuple) -> None:
    """Guards the state slots through a whole model: prompts of different lengths, one to several tokens a step."""
    _, ours = pair
    ids, lengths, slots, block = tokens(2, 20), [20, 13], torch.tensor([2, 1]), 4
    table = torch.tensor([[7, 2, 9, 1, 5], [3, 8, 4, 6, 0]])
    state = ours.new_state(3, 10, block, torch.float32, "cpu")
    expected = [ours(ids[row : row + 1, : lengths[row]])[0] for row in range(2)]
    for step in [[(0, 6), (0, 4)], [(6, 7), (4, 5)], [(7, 12), (5, 8)], [(12, 20), (8, 13)]]:
        time = max(end - start for start, end in step)
        new = torch.zeros(2, time, dtype=torch.int64)
        places = torch.zeros_like(new)
        for row, (start, end) in enumerate(step):
            index = torch.arange(start, end)
            new[row, : end - start] = ids[row, start:end]
            places[row, : end - start] = table[row, index // block] * block + index % block
        starts, ends = torch.tensor(step).unbind(1)
        view = CacheView(places, table, starts, ends - starts, slots)
        found = ours(new, Context(starts[:, None] + torch.arange(time), cache=view), state)
        for row, (start, end) in enumerate(step):
            torch.testing.assert_close(found[row, : end - start], expected[row][start:end], atol=1e-4, rtol=0)


@torch.no_grad()
def test_transformers_loads_what_we_save(pair: tuple, tmp_path: Path) -> None:
    reference, ours = pair
    save_module(ours, tmp_path / "saved")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "saved").eval()
    assert type(again) is type(reference)
    ids = tokens(2, 24)
    torch.testing.assert_close(logits(again, ids), logits(reference, ids), atol=1e-6, rtol=0)


@torch.no_grad()
def test_greedy_text_of_64_tokens_is_identical(pair: tuple) -> None:
    reference, ours = pair
    ids = expected = tokens(1, 5)
    for _ in range(64):  # not `generate`: transformers' cached Mamba-2 steps forget the limits of the step size
        ids = torch.cat((ids, ours(ids)[:, -1:].argmax(-1)), dim=1)
        expected = torch.cat((expected, logits(reference, expected)[:, -1:].argmax(-1)), dim=1)
    assert ids.tolist() == expected.tolist()


@pytest.mark.parametrize("name", list(CASES))
def test_counts_equal_transformers_parameters(name: str) -> None:
    """Guards against a cost formula that forgets a part."""
    config = config_from_hf(CASES[name].to_dict(), "config.json")
    with torch.device("meta"):
        reference = AutoModelForCausalLM.from_config(CASES[name])
    assert config.n_parameters() == sum(parameter.numel() for parameter in reference.parameters())


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [("mamba", "hidden_act", "relu"), ("mamba2", "num_heads", 4), ("rwkv", "layer_norm_epsilon", 1e-3)],
)
def test_a_field_that_changes_the_mathematics_is_refused(name: str, field: str, value: object) -> None:
    """Guards against silently computing something else than the file describes."""
    with pytest.raises(FoundlingError, match="config"):
        config_from_hf(CASES[name].to_dict() | {field: value}, "config.json")


@pytest.mark.parametrize(
    ("name", "total", "active"),
    [
        ("mamba-130m", 129_135_360, 129_135_360),
        ("mamba-2.8b", 2_768_345_600, 2_768_345_600),
        ("mamba2-2.7b", 2.7e9, 2.7e9),
        ("rwkv-4-169m", 169e6, 169e6),
        ("rwkv-4-14b", 14.15e9, 14.15e9),
        ("jamba-v0.1", 52e9, 12e9),
    ],
)
def test_published_sizes(name: str, total: float, active: float) -> None:
    """Guards the counts that the papers and model cards state."""
    config = preset(name)
    assert config.n_parameters() == pytest.approx(total, rel=0.01)
    assert config.n_parameters(active=True) == pytest.approx(active, rel=0.01)
