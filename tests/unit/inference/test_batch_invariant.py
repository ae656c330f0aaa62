"""Batch-invariant mode: the same tokens and log-probabilities to the last bit, in half precision, in any schedule."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from foundling.inference.engine import Engine, Request, SamplingParams
from foundling.inference.speculative import NgramLookup
from foundling.models.build import build
from foundling.models.config import AttentionConfig, BlockConfig, MLPConfig, ModelConfig, MoEConfig, NormConfig
from foundling.models.language_model import LanguageModel
from foundling.models.layers.recurrent_config import MambaConfig

FORMS = {
    "attention": BlockConfig(mixer=AttentionConfig(n_heads=4, n_kv_heads=2, head_dim=8), ffn=MLPConfig(hidden=64)),
    "experts": BlockConfig(
        mixer=AttentionConfig(n_heads=4, n_kv_heads=2, head_dim=8), ffn=MoEConfig(n_experts=4, top_k=2, hidden=32)
    ),
    "recurrent": BlockConfig(mixer=MambaConfig(inner=64, state=4, dt_rank=4), ffn=MLPConfig(hidden=64)),
}


def half(form: str) -> LanguageModel:
    norm = NormConfig(kind="layer", bias=True)  # which the native kernels do not know
    config = ModelConfig(family="x", vocab_size=67, dim=32, blocks=(FORMS[form],) * 2, norm=norm, max_positions=128)
    module = build(config, seed=1, zero_outputs=False)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(2.0)
    return module.to(torch.bfloat16).eval()


@pytest.mark.parametrize("form", FORMS)
def test_bits_do_not_depend_on_the_schedule(form: str) -> None:
    """Guards every shape that reaches a product or a sum: rows, chunks, cached beginnings, drafts, heads."""
    module, most = half(form), 3 if form == "attention" else 1

    @settings(max_examples=most, deadline=None)
    @given(
        seed=st.integers(0, 2**32),
        max_batch=st.integers(1, 6),
        room=st.sampled_from([80, 400]),
        chunk=st.sampled_from([3, 16, 512]),
    )
    def check(seed: int, max_batch: int, room: int, chunk: int) -> None:
        rng = random.Random(seed)
        common = [rng.randrange(67) for _ in range(20)]
        prompts = [common[: rng.choice([0, 16, 20])] + [rng.randrange(67)] * rng.randrange(1, 9) for _ in range(3)]
        params = SamplingParams(max_tokens=4, logprobs=2)
        speculate = NgramLookup() if form != "recurrent" else None
        options = {"max_batch": max_batch, "max_tokens_in_cache": room, "max_chunk": chunk, "speculate": speculate}
        engine = Engine(module, None, batch_invariant=True, max_tokens_per_step=24, **options)  # type: ignore[arg-type]
        for prompt, done in zip(prompts, engine.generate([Request(prompt, params) for prompt in prompts]), strict=True):
            alone = Engine(module, None, batch_invariant=True).generate([Request(prompt, params)])[0]
            assert (done.tokens, done.logprobs, done.top_logprobs) == (alone.tokens, alone.logprobs, alone.top_logprobs)
        pairs = [(prompt, [3, 4, 5]) for prompt in prompts]
        for pair, score in zip(pairs, engine.score(pairs), strict=True):
            assert score == Engine(module, None, batch_invariant=True).score([pair])[0]

    check()


def test_it_computes_what_the_plain_mode_does(exact: LanguageModel) -> None:
    prompts = [[5, 6, 7], list(range(40)), [9] * 17]
    params = SamplingParams(max_tokens=10, ignore_eos=True)
    plain, invariant = (Engine(exact, None, batch_invariant=mode) for mode in (False, True))
    for one, other in zip(
        *(e.generate([Request(p, params) for p in prompts]) for e in (plain, invariant)), strict=True
    ):
        assert one.tokens == other.tokens and one.logprobs == pytest.approx(other.logprobs, abs=1e-9)
