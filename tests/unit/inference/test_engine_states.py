"""Recurrent states and the 8-bit cache under the same scheduler."""

from __future__ import annotations

import random

import pytest
import torch

from foundling.core.errors import FoundlingError
from foundling.inference.engine import Engine, Request, SamplingParams
from foundling.inference.speculative import NgramLookup
from foundling.models.build import build
from foundling.models.config import AttentionConfig, BlockConfig, MLPConfig, ModelConfig, NormConfig, RopeConfig
from foundling.models.language_model import LanguageModel
from foundling.models.layers.recurrent_config import MambaConfig, RecurrentConfig

GREEDY = SamplingParams(max_tokens=10, ignore_eos=True)


def hybrid() -> LanguageModel:
    """Mamba, GRU and attention in one stack, in double precision."""
    attention = AttentionConfig(n_heads=4, n_kv_heads=2, head_dim=8, rope=RopeConfig())
    mixers = (MambaConfig(inner=64, state=4, dt_rank=4), attention, RecurrentConfig(cell="gru", hidden=32))
    blocks = tuple(BlockConfig(mixer=mixer, ffn=MLPConfig(hidden=64)) for mixer in mixers)
    config = ModelConfig(
        family="foundling", vocab_size=100, dim=32, blocks=blocks, norm=NormConfig(), max_positions=128
    )  # fmt: skip
    return build(config, seed=3, zero_outputs=False).double().eval()


def test_recurrent_states_follow_their_sequences() -> None:
    """Guards against states that are shared, left over from a slot's last owner, or lost in chunks and preemption."""
    module, rng = hybrid(), random.Random(0)
    prompts = [[rng.randrange(100) for _ in range(length)] for length in (1, 3, 17, 17, 40, 33)]
    prompts.append(list(prompts[4]))
    for options in ({}, {"max_batch": 2}, {"max_chunk": 5}, {"max_tokens_in_cache": 112, "max_batch": 4}):
        engine = Engine(module, None, **options)
        done = engine.generate([Request(prompt, GREEDY) for prompt in prompts])
        for prompt, completion in zip(prompts, done, strict=True):
            tokens = list(prompt)
            with torch.no_grad():
                for _ in range(10):
                    tokens.append(int(module(torch.tensor([tokens]))[0, -1].argmax()))
            assert completion.tokens == tokens[len(prompt) :], options


def test_recurrent_models_do_not_speculate() -> None:
    """Guards against guesses that stay in a state for ever."""
    with pytest.raises(FoundlingError, match="recurrent"):
        Engine(hybrid(), None, speculate=NgramLookup())


def test_int8_cache_is_small_and_near(module: LanguageModel) -> None:
    """Guards against scales of other tokens or heads: scores must stay within the rounding of 8 bits."""
    rng = random.Random(2)
    pairs = [([rng.randrange(256) for _ in range(30)], [rng.randrange(256) for _ in range(20)]) for _ in range(4)]
    engine = Engine(module, None, int8_cache=True, max_chunk=8)
    for ours, exact in zip(engine.score(pairs), Engine(module, None).score(pairs), strict=True):
        assert ours.logprob != exact.logprob
        assert ours.logprob == pytest.approx(exact.logprob, rel=0.02)
    plain = Engine(module, None).runner.cache_bytes_per_token
    assert engine.runner.cache_bytes_per_token < plain / 2
