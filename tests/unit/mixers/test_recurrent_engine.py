"""Recurrent and hybrid stacks behind the one engine: continuous batching, chunked prompts, reused slots."""

from __future__ import annotations

import pytest
import torch

from foundling.inference.engine import Engine
from foundling.inference.requests import Request
from foundling.inference.sampling import SamplingParams
from foundling.models.build import build
from foundling.models.config import ModelConfig
from foundling.models.families.foundling_patterns import blocks_of
from foundling.models.language_model import LanguageModel

STACKS = {
    "ssm": "mamba+mlp mamba2",
    "hybrid": "mamba+mlp attention+mlp mamba2+mlp",
    "rwkv": "rwkv4 rwkv4_channel rwkv7+mlp",
    "convolutions": "s4+mlp h3+mlp",
    "cells": "lstm+mlp gru",
}


def greedy(module: LanguageModel, prompt: list[int], steps: int) -> list[int]:
    ids = list(prompt)
    with torch.no_grad():
        for _ in range(steps):
            ids.append(int(module(torch.tensor([ids]))[0, -1].argmax()))
    return ids[len(prompt) :]


@pytest.mark.parametrize("stack", list(STACKS))
def test_batched_greedy_text_equals_the_full_pass(stack: str) -> None:
    """Guards against states that are shared, not reset when a slot is used again, or lost between prompt chunks."""
    config = ModelConfig(family="foundling", vocab_size=40, dim=32, blocks=blocks_of(STACKS[stack], 32))
    module = build(config, 1, zero_outputs=False).eval()
    generator = torch.Generator().manual_seed(0)
    prompts = [torch.randint(0, 40, (n,), generator=generator).tolist() for n in (3, 29, 11, 1, 40, 17)]
    prompts.append([*prompts[4][:32], 1, 2])  # shares a beginning, which a recurrent state cannot take over
    engine = Engine(module, None, max_batch=3, max_tokens_in_cache=256, max_chunk=8)
    params = SamplingParams(max_tokens=9, temperature=0.0)
    found = engine.generate([Request(prompt, params) for prompt in prompts])
    for prompt, completion in zip(prompts, found, strict=True):
        assert completion.tokens == greedy(module, prompt, 9)
