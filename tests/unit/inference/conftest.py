"""A tiny real model and a tokenizer whose tokens are single bytes."""

from __future__ import annotations

import pytest
import tokenizers
import torch

from foundling.models.build import build
from foundling.models.config import AttentionConfig, MLPConfig, ModelConfig, NormConfig, RopeConfig, uniform_blocks
from foundling.models.language_model import LanguageModel
from foundling.tokenization.tokenizer import Tokenizer


def tiny_config(max_positions: int = 128) -> ModelConfig:
    """Two layers of Qwen3's architecture, 32 wide, over 259 tokens."""
    norm = NormConfig()
    attention = AttentionConfig(n_heads=4, n_kv_heads=2, head_dim=8, rope=RopeConfig(), qk_norm=norm)
    blocks = uniform_blocks(2, attention, MLPConfig(hidden=64))
    return ModelConfig(family="qwen3", vocab_size=259, dim=32, blocks=blocks, norm=norm, max_positions=max_positions)


@pytest.fixture(scope="session")
def module() -> LanguageModel:
    """Random weights, large enough that the next token depends on the whole past."""
    torch.set_num_threads(1)
    module = build(tiny_config(), seed=1, zero_outputs=False)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(2.0)
    return module.eval()


@pytest.fixture(scope="session")
def exact(module: LanguageModel) -> LanguageModel:
    """The same weights in double precision: a draw then never depends on rounding, only on what is computed."""
    twin = build(module.config, seed=1)
    twin.load_state_dict(module.state_dict())
    return twin.double().eval()


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """Byte-level, without merges: token i < 256 is one byte; three control tokens follow."""
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    bpe = tokenizers.models.BPE(vocab={char: i for i, char in enumerate(alphabet)}, merges=[])
    fast = tokenizers.Tokenizer(bpe)
    fast.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.decoder = tokenizers.decoders.ByteLevel()
    fast.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    return Tokenizer(fast, {"eos_token": "<|endoftext|>"})
