"""Our logits against transformers' on the same random weights, both directions."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer as RustTokenizer
from tokenizers.models import WordLevel
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from foundling.models.checkpoint import load_module, save_module
from foundling.models.context import CacheView, Context
from foundling.models.language_model import LanguageModel

SHAPE = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 56,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
NEOX = {name: value for name, value in SHAPE.items() if name != "num_key_value_heads"}
WIDE = SHAPE | {"head_dim": 16}  # heads wider than dim / heads
WINDOWED = {"sliding_window": 5, "layer_types": ["full_attention", "sliding_attention", "full_attention"]}
LLAMA3 = {"factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32}
LONG = {"short_factor": [1.0 + 0.1 * i for i in range(4)], "long_factor": [1.5 + i for i in range(4)]}
GPT2 = {"vocab_size": 97, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 128}
GPT2 |= {"bos_token_id": 1, "eos_token_id": 2}


def rope(kind: str, **fields: object) -> dict[str, object]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10000.0, **fields}}


MOE = {"num_experts": 4, "num_experts_per_tok": 2}
MLA = {"kv_lora_rank": 16, "q_lora_rank": 12, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 8}
DEEPSEEK = SHAPE | MLA | {"num_key_value_heads": 4, "n_routed_experts": 8, "num_experts_per_tok": 3}
DEEPSEEK |= {"moe_intermediate_size": 24, "first_k_dense_replace": 1, "pad_token_id": 0}
YARN = {"factor": 4.0, "original_max_position_embeddings": 32, "mscale": 0.7, "mscale_all_dim": 0.9}

CASES: dict[str, tuple[str, dict]] = {
    "llama": ("llama", WIDE | {"rms_norm_eps": 1e-5}),
    "llama-biases-tied": ("llama", SHAPE | {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}),
    "llama-theta": ("llama", SHAPE | {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}),
    "llama-linear": ("llama", SHAPE | rope("linear", factor=4.0)),
    "llama-dynamic": ("llama", SHAPE | rope("dynamic", factor=4.0)),
    "llama-llama3": ("llama", SHAPE | rope("llama3", **LLAMA3)),
    "llama-yarn": ("llama", SHAPE | rope("yarn", factor=4.0, original_max_position_embeddings=32)),
    "mistral": ("mistral", SHAPE | {"sliding_window": 7}),
    "mistral-full": ("mistral", SHAPE | {"sliding_window": None}),
    "qwen2": ("qwen2", SHAPE),
    "qwen2-windowed": ("qwen2", SHAPE | {"use_sliding_window": True} | WINDOWED),
    "qwen3": ("qwen3", WIDE),
    "qwen3-tied": ("qwen3", WIDE | {"tie_word_embeddings": True}),
    "gemma2": ("gemma2", WIDE | {"sliding_window": 5, "query_pre_attn_scalar": 24}),
    "gemma2-uncapped": ("gemma2", WIDE | {"attn_logit_softcapping": None, "final_logit_softcapping": None}),
    "gemma3": ("gemma3_text", WIDE | WINDOWED),
    "phi3": ("phi3", SHAPE),
    "phi3-longrope-partial": (
        "phi3",
        SHAPE
        | {"hidden_size": 64, "original_max_position_embeddings": 64}
        | rope("longrope", partial_rotary_factor=0.5, **LONG),
    ),
    "olmo2": ("olmo2", SHAPE),
    "gpt2": ("gpt2", GPT2),
    "gpt2-narrow": ("gpt2", GPT2 | {"n_inner": 40, "activation_function": "relu"}),
    "gpt_neox": ("gpt_neox", NEOX | {"rotary_pct": 0.5}),
    "mixtral": ("mixtral", SHAPE | {"num_local_experts": 4}),
    "qwen3_moe": ("qwen3_moe", WIDE | MOE | {"moe_intermediate_size": 24, "norm_topk_prob": True}),
    "qwen3_moe-part-dense": ("qwen3_moe", WIDE | MOE | {"moe_intermediate_size": 24, "mlp_only_layers": [1]}),
    "olmoe": ("olmoe", SHAPE | MOE | {"clip_qkv": 0.5}),
    "deepseek_v2": ("deepseek_v2", DEEPSEEK | {"n_shared_experts": 2}),
    "deepseek_v2-grouped": (
        "deepseek_v2",
        DEEPSEEK | {"topk_method": "group_limited_greedy", "n_group": 4, "topk_group": 2, "q_lora_rank": None},
    ),
    "deepseek_v3": ("deepseek_v3", DEEPSEEK | {"n_group": 4, "topk_group": 2}),
    "deepseek_v3-yarn": ("deepseek_v3", DEEPSEEK | {"n_group": 4, "topk_group": 2} | rope("yarn", **YARN)),
    "gpt_neox-sequential": ("gpt_neox", NEOX | {"use_parallel_residual": False, "attention_bias": False}),
}


@pytest.fixture(params=CASES)
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[torch.nn.Module, LanguageModel]:
    """The same random model in transformers and here, passed through a directory."""
    model_type, fields = CASES[request.param]
    config = AutoConfig.for_model(model_type, **fields)
    torch.manual_seed(0)
    reference = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():  # default norms are all ones and biases zero: swapped ones would go unnoticed
        for parameter in reference.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    reference.save_pretrained(tmp_path)
    return reference, load_module(tmp_path)


def tokens(rows: int, time: int) -> Tensor:
    return torch.randint(0, SHAPE["vocab_size"], (rows, time), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_logits_equal_with_padding_and_packed_documents(pair: tuple) -> None:
    reference, ours = pair
    ids = tokens(2, 24)
    torch.testing.assert_close(ours(ids), reference(ids).logits, atol=1e-4, rtol=0)

    mask = torch.ones_like(ids)
    mask[1, 17:] = 0
    padded = ours(ids, Context.packed(torch.where(mask == 1, 0, -1)))
    expected = reference(ids, attention_mask=mask).logits
    torch.testing.assert_close(padded[mask == 1], expected[mask == 1], atol=1e-4, rtol=0)

    segments = torch.tensor([[0] * 9 + [1] * 15]).expand(2, -1)
    packed = ours(ids, Context.packed(segments))
    torch.testing.assert_close(packed[:, :9], reference(ids[:, :9]).logits, atol=1e-4, rtol=0)
    torch.testing.assert_close(packed[:, 9:], reference(ids[:, 9:]).logits, atol=1e-4, rtol=0)


@torch.no_grad()
def test_cached_decoding_equals_the_full_pass(pair: tuple) -> None:
    """Guards the paged cache: prompts of different lengths, blocks out of order, one to several tokens a step."""
    _, ours = pair
    ids, lengths, block = tokens(2, 20), [20, 13], 4
    table = torch.tensor([[7, 2, 9, 1, 5], [3, 8, 4, 6, 0]])
    state = ours.new_state(2, 10, block, torch.float32, "cpu")
    steps = [[(0, 6), (0, 4)], [(6, 7), (4, 5)], [(7, 12), (5, 8)], [(12, 20), (8, 13)]]
    expected = [ours(ids[row : row + 1, : lengths[row]])[0] for row in range(2)]
    for step in steps:
        time = max(end - start for start, end in step)
        new = torch.zeros(2, time, dtype=torch.int64)
        positions, slots = torch.zeros_like(new), torch.zeros_like(new)
        for row, (start, end) in enumerate(step):
            index = torch.arange(start, end)
            new[row, : end - start], positions[row, : end - start] = ids[row, start:end], index
            slots[row, : end - start] = table[row, index // block] * block + index % block
        starts, ends = torch.tensor(step).unbind(1)
        view = CacheView(slots, table, starts, ends - starts, torch.arange(2))
        logits = ours(new, Context(positions, cache=view), state)
        for row, (start, end) in enumerate(step):
            torch.testing.assert_close(logits[row, : end - start], expected[row][start:end], atol=1e-4, rtol=0)


@torch.no_grad()
def test_transformers_loads_what_we_save(pair: tuple, tmp_path: Path) -> None:
    reference, ours = pair
    save_module(ours, tmp_path / "saved")
    words = RustTokenizer(WordLevel({"<unk>": 0, "a": 1}, unk_token="<unk>"))
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>").save_pretrained(tmp_path / "saved")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert type(again) is type(reference)
    ids = tokens(2, 24)
    torch.testing.assert_close(again(ids).logits, reference(ids).logits, atol=1e-6, rtol=0)
    assert AutoTokenizer.from_pretrained(tmp_path / "saved").encode("a") == [1]


@torch.no_grad()
def test_greedy_text_of_64_tokens_is_identical(pair: tuple) -> None:
    reference, ours = pair
    prompt = tokens(1, 5)
    expected = reference.generate(
        prompt, max_new_tokens=64, min_new_tokens=64, do_sample=False, pad_token_id=0, eos_token_id=None
    )
    ids = prompt
    for _ in range(expected.shape[1] - prompt.shape[1]):
        ids = torch.cat((ids, ours(ids)[:, -1:].argmax(-1)), dim=1)
    assert ids.tolist() == expected.tolist()
