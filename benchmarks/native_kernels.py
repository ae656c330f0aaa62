"""Claims: cached decoding by the native kernels at SmolLM2-135M's shape, on two CPU cores.

8 bits, batch 1: at least 60% of the memory bandwidth; prefill at least 1725 and 8-way at least 466 tokens/s (OpenVINO
int8's there); 4 bits, batch 1: at least 1.3 times llama.cpp's Q4 (baselines: 113-120 tokens/s); bf16: decode at least 4
times, prefill at least 2 times transformers'. Weights are random: speed does not depend on their values. The peer runs
in the same process, in turn with us; medians. Ratios are to the peer, or to our 16 bits without it.

    python benchmarks/native_kernels.py [--rounds 5] [--no-peer] [--json out.json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

from foundling.core import hardware
from foundling.models.build import build
from foundling.models.context import CacheView, Context
from foundling.models.kernels.decoder import NativeDecoder, native
from foundling.models.language_model import LanguageModel
from foundling.models.presets import preset
from foundling.models.quantized import Scheme
from foundling.models.rounding import quantize_module

SHAPE = "smollm2-135m"
BLOCK = 16
CASES = {
    "decode, batch 1": (1, 1, 128),
    "decode, batch 8": (8, 1, 128),
    "decode, batch 32": (32, 1, 128),
    "prefill 512": (1, 512, 0),
}
Step = Callable[[int, int, int], None]


def make(bits: int) -> LanguageModel:
    """The model with weights of so many bits, its head included (as llama.cpp's files have it)."""
    module = build(preset(SHAPE), 0).eval().to(torch.bfloat16)
    if bits == 16:
        return module
    module.output = nn.Linear(module.config.dim, module.config.vocab_size, bias=False)
    module.output.weight = nn.Parameter(module.embedding.weight.detach().clone())
    quantize_module(module, Scheme(bits=bits, group_size=64), skip=())  # type: ignore[arg-type]
    return module


def our_step(module: LanguageModel, decoder: NativeDecoder) -> Step:
    """One step over a paged cache: `new` tokens of each row after `past` cached ones, and the last one's logits."""
    state = module.new_state(33, 1 + 32 * 40, BLOCK, torch.bfloat16, "cpu")

    def step(rows: int, new: int, past: int) -> None:
        blocks = -(-(past + new) // BLOCK)
        table = torch.arange(1, 1 + rows * blocks).view(rows, blocks)
        positions = past + torch.arange(new).expand(rows, new)
        slots = table.gather(1, positions // BLOCK) * BLOCK + positions % BLOCK
        counts = torch.full((rows,), new)
        view = CacheView(slots, table, torch.full((rows,), past), counts, torch.arange(1, rows + 1))
        hidden = decoder.hidden(torch.randint(0, 49152, (rows, new)), Context(positions, None, view), state)
        decoder.head(hidden[:, -1])

    return step


def their_step() -> Step:
    """The same step by transformers, in bf16, with its own cache."""
    c = preset(SHAPE)
    config = LlamaConfig(
        vocab_size=c.vocab_size, hidden_size=c.dim, intermediate_size=1536, num_hidden_layers=c.n_layers,
        num_attention_heads=9, num_key_value_heads=3, tie_word_embeddings=True, max_position_embeddings=2048,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval().to(torch.bfloat16)
    caches: dict[int, Any] = {}

    def step(rows: int, new: int, past: int) -> None:
        if past and rows not in caches:
            caches[rows] = DynamicCache()
            model(torch.randint(0, 49152, (rows, past)), past_key_values=caches[rows], logits_to_keep=1)
        cache = caches[rows] if past else DynamicCache()
        model(torch.randint(0, 49152, (rows, new)), past_key_values=cache, logits_to_keep=1)
        if past:
            cache.crop(past)

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peer", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    contenders: dict[str, Step] = {"transformers bf16": their_step()} if arguments.peer else {}
    megabytes = {"transformers bf16": 269.0}
    for bits in (16, 8, 4):
        module = make(bits)
        decoder = native(module)
        assert decoder is not None, "no native kernels on this machine"
        name = f"ours {bits} bits"
        contenders[name] = our_step(module, decoder)
        megabytes[name] = sum(weight.bytes for weight in decoder.weights.values()) / 1e6
    bandwidth = hardware.measure().bandwidth
    print(f"{hardware.describe()}; {torch.get_num_threads()} threads; memory {bandwidth / 1e9:.1f} GB/s")
    results = []
    with torch.no_grad():
        for case, (rows, new, past) in CASES.items():
            seconds: dict[str, list[float]] = {name: [] for name in contenders}
            for turn in range(arguments.rounds + 1):
                for name, step in contenders.items():
                    begin = time.perf_counter()
                    for _ in range(5 if new == 1 else 1):
                        step(rows, new, past)
                    if turn:  # the first turn warms up
                        seconds[name].append((time.perf_counter() - begin) / (5 if new == 1 else 1))
            theirs = statistics.median(seconds["transformers bf16" if arguments.peer else "ours 16 bits"])
            for name, times in seconds.items():
                took = statistics.median(times)
                share = megabytes[name] * 1e6 / took / bandwidth
                results.append({"case": case, "who": name, "tokens_per_second": rows * new / took, "share": share})
                rate = rows * new / took
                print(
                    f"{case:17} {name:18} {rate:8.0f} tokens/s {theirs / took:6.1f}x {share:5.0%} of bandwidth",
                    flush=True,
                )
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": hardware.describe(), "results": results}, indent=1))


if __name__ == "__main__":
    main()
