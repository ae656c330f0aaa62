"""Decoding and prefill speed beside transformers on the same weights, in turns, and as a share of the bandwidth limit.

    python benchmarks/inference.py                         # SmolLM2-135M's shape, fp32 and bf16
    python benchmarks/inference.py --preset smollm2-135m --rounds 3 --new 32 --bits 16 8 4

Random weights: speed does not depend on their values. Each round runs every contender once; medians are printed. The
limit of batch-1 decoding is (bytes of the weights + bytes of the cache read) per token over the measured bandwidth.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import transformers

from foundling.core import hardware
from foundling.inference.engine import Engine, Request, SamplingParams
from foundling.models.build import build
from foundling.models.checkpoint import load_module, save_module
from foundling.models.presets import preset
from foundling.models.quantized import Scheme
from foundling.models.rounding import quantize_module

PROMPT = 64


def prompts(count: int, length: int, vocab: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(count * 1000 + length)
    return torch.randint(0, vocab, (count, length), generator=generator).tolist()


def seconds(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def ours(engine: Engine, asked: list[list[int]], new: int) -> float:
    params = SamplingParams(max_tokens=new, ignore_eos=True)
    engine.weights_changed()  # no reuse from an earlier round
    return seconds(lambda: engine.generate([Request(prompt, params) for prompt in asked]))


def theirs(model: transformers.PreTrainedModel, asked: list[list[int]], new: int) -> float:
    ids = torch.tensor(asked)
    options = {"do_sample": False, "min_new_tokens": new, "max_new_tokens": new, "pad_token_id": 0}
    with torch.no_grad():
        return seconds(lambda: model.generate(ids, attention_mask=torch.ones_like(ids), **options))


def contenders(args: argparse.Namespace, directory: Path) -> dict[str, tuple[Callable[..., float], object, float]]:
    """Name -> (how to time it, the model, bytes of its weights)."""
    config = preset(args.preset)
    save_module(build(config, seed=0, zero_outputs=False), directory)
    made: dict[str, tuple[Callable[..., float], object, float]] = {}
    for bits in args.bits:
        module = load_module(directory, dtype=torch.float32 if bits == 32 else torch.bfloat16)
        if bits < 16:
            module = load_module(directory)
            quantize_module(module, Scheme(bits=bits))
        size = sum(p.numel() * p.element_size() for p in (*module.parameters(), *module.buffers()))
        made[f"foundling {bits} bits"] = (ours, Engine(module, None, max_batch=max(args.batches)), float(size))
        if bits >= 16:
            dtype = torch.float32 if bits == 32 else torch.bfloat16
            peer = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=dtype).eval()
            made[f"transformers {bits} bits"] = (theirs, peer, float(size))
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="smollm2-135m")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--new", type=int, default=16, help="tokens to decode")
    parser.add_argument("--bits", type=int, nargs="+", default=[32, 16])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32])
    args = parser.parse_args()
    rates = hardware.measure()
    vocab = preset(args.preset).vocab_size
    print(f"{hardware.describe()}; {rates.bandwidth / 1e9:.1f} GB/s; torch {torch.__version__}")
    with tempfile.TemporaryDirectory() as directory:
        models = contenders(args, Path(directory))
        cases = [("prefill 512", 1, 512, 1), *((f"decode x{n}", n, PROMPT, args.new) for n in args.batches)]
        for title, count, length, new in cases:
            asked = prompts(count, length, vocab)
            times: dict[str, list[float]] = {name: [] for name in models}
            for _ in range(args.rounds):
                for name, (run, model, _) in models.items():
                    spent = run(model, asked, new)
                    if new > 1:  # the decoding alone
                        spent -= run(model, asked, 1)
                    times[name].append(spent)
            for name, (_, _, size) in models.items():
                spent = statistics.median(times[name])
                rate = (length if new == 1 else count * (new - 1)) / spent
                limit = f"  {(new - 1) / spent * size / rates.bandwidth:4.0%} of bandwidth" if new > 1 else ""
                print(f"{title:12s} {name:22s} {rate:9.1f} tokens/s{limit}")


if __name__ == "__main__":
    main()
