"""Claims: decoding, prefill and batches beside llama.cpp at the same bits and transformers bf16, on the same weights.

    python benchmarks/inference.py --llama-cpp PYTHON     # PYTHON: an environment that has xllamacpp
    python benchmarks/inference.py --bits 8 4 --batches 1 --rounds 5

Goals on two CPU cores: batch-1 decode at 8 bits at least llama.cpp Q8_0's, at 4 bits at least 1.3 times its Q4_0's;
prefill at least 1725 and 8-way at least 466 tokens/s in total (OpenVINO int8's there); in bf16 decode at least 4 times
and prefill 2 times transformers'; 32-way more than 8-way. SmolLM2-135M's published weights; group 32, the head
quantized too, as in llama.cpp's files. Every round runs each contender once, in turn; medians are printed. Decoding
takes the time of the whole answer minus that of its first token; its limit is the bytes of the weights per token over
the measured bandwidth.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

from foundling.core import hardware
from foundling.inference.engine import Engine, Request, SamplingParams
from foundling.models.checkpoint import load_module, save_module
from foundling.models.gguf_file import save_gguf
from foundling.models.language_model import LanguageModel
from foundling.models.locate import locate
from foundling.models.quantized import Scheme
from foundling.models.rounding import quantize_module

MODEL = "smollm2-135m-instruct"
PROMPT = 64
SERVE = """
import sys, xllamacpp
p = xllamacpp.CommonParams()
p.model.path, p.n_parallel, p.n_ctx, p.warmup = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), True
p.cpuparams.n_threads = p.cpuparams_batch.n_threads = int(sys.argv[4])
server = xllamacpp.Server(p)
print(server.listening_address, flush=True)
sys.stdin.read()
"""
Run = Callable[[list[list[int]], int], None]  # prompts, new tokens


@dataclass
class Contender:
    """Who runs, and the bytes of weights that one decoding step reads."""

    name: str
    run: Run
    size: float


def ours(module: LanguageModel, bits: int, most: int) -> Contender:
    engine = Engine(module, None, max_batch=most)

    def run(asked: list[list[int]], new: int) -> None:
        engine.clear_cache()  # no reuse from an earlier round
        params = SamplingParams(max_tokens=new, ignore_eos=True)
        engine.generate([Request(prompt, params) for prompt in asked])

    return Contender(f"foundling {bits} bits", run, engine.runner.weight_bytes)


def quantized(directory: Path, bits: int) -> LanguageModel:
    module = load_module(directory, dtype=torch.bfloat16)
    if bits < 16:
        module.output = nn.Linear(module.config.dim, module.config.vocab_size, bias=False)
        module.output.weight = nn.Parameter(module.embedding.weight.detach().clone())
        quantize_module(module, Scheme(bits=bits, group_size=32), skip=())  # type: ignore[arg-type]
    return module


def theirs(directory: Path) -> Contender:
    model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.bfloat16).eval()

    def run(asked: list[list[int]], new: int) -> None:
        ids = torch.tensor(asked)
        options = {"do_sample": False, "min_new_tokens": new, "max_new_tokens": new, "pad_token_id": 0}
        with torch.no_grad():
            model.generate(ids, attention_mask=torch.ones_like(ids), **options)

    size = sum(p.numel() * p.element_size() for p in model.parameters())
    return Contender("transformers bf16", run, float(size))


def llama_cpp(python: str, path: Path, name: str, most: int) -> tuple[Contender, subprocess.Popen[str]]:
    """llama.cpp's server in a process of its own; the prompt's cache is off, as ours is."""
    command = [python, "-c", SERVE, str(path), str(most), str(most * 640), str(torch.get_num_threads())]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    address = next(line.strip() for line in process.stdout if line.startswith("http"))

    def ask(prompt: list[int], new: int) -> None:
        body: dict[str, Any] = {"prompt": prompt, "n_predict": new, "temperature": 0, "top_k": 1}
        data = json.dumps({**body, "ignore_eos": True, "cache_prompt": False}).encode()
        request = urllib.request.Request(f"{address}/completion", data, {"content-type": "application/json"})
        with urllib.request.urlopen(request) as answer:
            told = json.load(answer)
        assert told["tokens_predicted"] == new, told

    def run(asked: list[list[int]], new: int) -> None:
        with ThreadPoolExecutor(len(asked)) as pool:
            list(pool.map(lambda prompt: ask(prompt, new), asked))

    return Contender(name, run, float(path.stat().st_size)), process


def seconds(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def prompts(count: int, length: int, vocab: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(count * 1000 + length)
    return torch.randint(20, vocab, (count, length), generator=generator).tolist()


def shared_prefix(module: LanguageModel, rounds: int) -> None:
    """Sixteen questions behind one 448-token prefix, against sixteen whose first tokens differ."""
    engine = Engine(module, None, max_batch=16)
    prefix, *ends = prompts(17, 448, module.config.vocab_size)
    params = SamplingParams(max_tokens=8, ignore_eos=True)
    asked = {
        "shared": [Request([*prefix, *end[:16]], params) for end in ends],
        "not": [Request([20 + i, *prefix[1:], *end[:16]], params) for i, end in enumerate(ends)],
    }
    times: dict[str, list[float]] = {name: [] for name in asked}
    for _ in range(rounds):
        for name, requests in asked.items():
            engine.clear_cache()
            times[name].append(seconds(lambda requests=requests: engine.generate(requests)))
    reused, fresh = statistics.median(times["shared"]), statistics.median(times["not"])
    print(f"16 requests, 448 + 16 tokens in, 8 out: {reused:.2f} s shared, {fresh:.2f} s not: {fresh / reused:.1f}x")


def contenders(args: argparse.Namespace, directory: Path) -> tuple[list[Contender], list[subprocess.Popen[str]]]:
    most, processes = max(args.batches), []
    plain = load_module(locate(MODEL))
    save_module(plain, directory)
    made = [theirs(directory)] if args.transformers else []
    for bits in args.bits:
        made.append(ours(quantized(directory, bits), bits, most))
        if args.llama_cpp:
            name = {16: "f16", 8: "q8_0", 4: "q4_0"}[bits]
            path = directory / f"{name}.gguf"
            save_gguf(plain, locate(MODEL), path, name)  # type: ignore[arg-type]
            contender, process = llama_cpp(args.llama_cpp, path, f"llama.cpp {name}", most)
            made.append(contender)
            processes.append(process)
    return made, processes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--new", type=int, default=32, help="tokens to decode")
    parser.add_argument("--bits", type=int, nargs="+", default=[16, 8, 4], choices=[16, 8, 4])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--llama-cpp", help="the Python that has xllamacpp")
    parser.add_argument("--transformers", action=argparse.BooleanOptionalAction, default=True)
    args = parser.parse_args()
    rates = hardware.measure()
    print(f"{torch.get_num_threads()} threads; memory {rates.bandwidth / 1e9:.1f} GB/s; {MODEL}")
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        everyone, processes = contenders(args, directory)
        vocab = load_module(directory).config.vocab_size
        try:
            cases = [("prefill 512", 1, 512, 1), *((f"decode x{n}", n, PROMPT, args.new) for n in args.batches)]
            for title, count, length, new in cases:
                measure(title, everyone, prompts(count, length, vocab), new, args.rounds, rates.bandwidth)
        finally:
            for process in processes:
                process.kill()
        shared_prefix(quantized(directory, args.bits[0]), args.rounds)


def measure(
    title: str, everyone: list[Contender], asked: list[list[int]], new: int, rounds: int, bandwidth: float
) -> None:
    times: dict[str, list[float]] = {one.name: [] for one in everyone}
    for turn in range(rounds + 1):
        for one in everyone:
            run = one.run
            spent = seconds(lambda run=run: run(asked, new))
            if new > 1:  # the decoding alone
                spent -= seconds(lambda run=run: run(asked, 1))
            if turn:  # the first turn warms up
                times[one.name].append(spent)
    for one in everyone:
        spent = statistics.median(times[one.name])
        rate = len(asked) * (len(asked[0]) if new == 1 else new - 1) / spent
        limit = f"  {(new - 1) / spent * one.size / bandwidth:4.0%} of the bandwidth" if new > 1 else ""
        print(f"{title:12s} {one.name:20s} {rate:8.1f} tokens/s{limit}", flush=True)


if __name__ == "__main__":
    main()
