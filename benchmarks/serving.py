"""Claim: over HTTP with streaming, first in total throughput from 8 clients up, and within 5% of the engine alone.

The same random weights of SmolLM2-135M's shape (bf16) behind our server and behind `transformers serve`, in turn; then
the same requests straight into our engine. Prompts are unique or share a long prefix, and of mixed lengths.

    python benchmarks/serving.py --clients 1 8 32 64 --tokens 48 [--no-peer] [--bits 8]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import torch
from tokenizers import Tokenizer as Fast
from tokenizers import decoders, models, pre_tokenizers, trainers

from foundling.core.hardware import describe
from foundling.inference.engine import Request, SamplingParams
from foundling.inference.model import load
from foundling.models.build import build
from foundling.models.checkpoint import save_module
from foundling.models.presets import preset
from foundling.models.quantized import Scheme
from foundling.models.rounding import quantize_module
from foundling.tokenization.chat import CHATML, render
from foundling.tokenization.tokenizer import Tokenizer

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEXT = "the quick brown fox jumps over a lazy dog while seven wizards quietly boil large pots of strange soup"
WORDS = TEXT.split()
OURS = """
import sys, torch, foundling
from foundling.serving.config import ServeConfig
from foundling.serving.server import serve
model = foundling.load(sys.argv[1], dtype=torch.bfloat16)
serve(model, ServeConfig(port=int(sys.argv[2]), name=sys.argv[1], max_requests=512))
"""


@dataclass
class Timing:
    """One streamed answer: seconds from the request to each piece."""

    pieces: list[float]


def make_model(path: Path, bits: int) -> None:
    """Random weights of the shape, and a byte-level tokenizer."""
    module = build(preset("smollm2-135m", max_positions=2048), 0).to(torch.bfloat16)
    if bits < 16:
        quantize_module(module, Scheme(bits=bits, group_size=64))  # type: ignore[arg-type]
    save_module(module, path)
    fast = Fast(models.BPE())
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    fast.train_from_iterator(
        [TEXT] * 9, trainers.BpeTrainer(vocab_size=400, special_tokens=SPECIAL, initial_alphabet=alphabet)
    )
    Tokenizer(fast, {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "chat_template": CHATML}).save(path)


def questions(count: int, shared: bool, seed: int) -> list[list[dict[str, str]]]:
    """Chat messages of mixed lengths; with `shared` they begin with the same 300 words."""
    draw = random.Random(seed)
    prefix = " ".join(random.Random(0).choices(WORDS, k=300)) if shared else ""
    texts = [f"{prefix} {' '.join(draw.choices(WORDS, k=draw.choice([10, 40, 120])))} {seed}.{i}" for i in range(count)]
    return [[{"role": "user", "content": text}] for text in texts]


@contextlib.contextmanager
def server(command: list[str], port: int) -> Iterator[str]:
    """A server process, once it answers."""
    child = subprocess.Popen([*command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            if child.poll() is not None:
                raise SystemExit(f"the server ended before it answered: {' '.join(command)}")
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{url}/health").status_code == 200:
                    break
            time.sleep(0.2)
        yield url
    finally:
        child.terminate()
        child.wait(60)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def ask(http: httpx.AsyncClient, body: dict[str, Any]) -> Timing:
    begin, pieces = time.perf_counter(), []
    async with http.stream("POST", "/v1/chat/completions", json=body) as answer:
        answer.raise_for_status()
        async for line in answer.aiter_lines():
            if line.startswith("data: {") and json.loads(line[6:])["choices"]:
                pieces.append(time.perf_counter() - begin)
    return Timing(pieces)


async def load_test(
    url: str, model: str, asked: list[list[dict[str, str]]], tokens: int, ours: bool
) -> tuple[float, list[Timing]]:
    """All questions at once; the seconds until the last is answered, and each answer's timing."""
    limits = httpx.Limits(max_connections=None)
    own = {"ignore_eos": True, "temperature": 0} if ours else {"temperature": 0}
    async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits) as http:
        bodies = [{"model": model, "messages": m, "max_tokens": tokens, "stream": True, **own} for m in asked]
        begin = time.perf_counter()
        timings = await asyncio.gather(*(ask(http, body) for body in bodies))
        return time.perf_counter() - begin, timings


def report(name: str, clients: int, kind: str, seconds: float, tokens: int, timings: list[Timing]) -> float:
    first = statistics.median(timing.pieces[0] for timing in timings)
    gaps = sorted(b - a for timing in timings for a, b in zip(timing.pieces, timing.pieces[1:], strict=False))
    rate = clients * tokens / seconds
    middle, worst = gaps[len(gaps) // 2], gaps[int(len(gaps) * 0.99)]
    print(
        f"{clients:3} clients, {kind:6}  {name:13} {rate:7.0f} tokens/s; first token {first * 1e3:6.0f} ms; "
        f"between tokens p50 {middle * 1e3:5.1f} p99 {worst * 1e3:6.1f} ms",
        flush=True,
    )
    return rate


def engine_rate(path: Path, clients: int, shared: bool, tokens: int) -> float:
    """The same requests without HTTP, in this process."""
    model = load(path, dtype=torch.bfloat16)
    params = SamplingParams(max_tokens=tokens, ignore_eos=True)
    model.engine.generate([Request([5, 6, 7], params)])
    requests = [
        Request(render(model.tokenizer, m, add_generation_prompt=True).ids, params)
        for m in questions(clients, shared, 1)
    ]
    begin = time.perf_counter()
    model.engine.generate(requests)
    return clients * tokens / (time.perf_counter() - begin)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32, 64])
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--bits", type=int, default=16, choices=[4, 8, 16])
    parser.add_argument("--peer", action=argparse.BooleanOptionalAction, default=True)
    arguments = parser.parse_args()
    print(describe())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        make_model(path, arguments.bits)
        port = free_port()
        contenders = {"foundling": ([sys.executable, "-c", OURS, str(path), str(port)], port)}
        if arguments.peer and arguments.bits == 16:
            port = free_port()
            binary = str(Path(sys.executable).with_name("transformers"))
            command = [binary, "serve", "--host", "127.0.0.1", "--port", str(port), "--dtype", "bfloat16"]
            contenders["transformers"] = (command, port)
        os.environ["HF_HUB_OFFLINE"] = "1"
        for name, (command, port) in contenders.items():
            with server(command, port) as url:
                asyncio.run(load_test(url, str(path), questions(1, False, 0), 8, name == "foundling"))  # warm-up
                for clients in arguments.clients:
                    for shared in (False, True):
                        asked = questions(clients, shared, 1)
                        done = asyncio.run(load_test(url, str(path), asked, arguments.tokens, name == "foundling"))
                        rate = report(
                            name, clients, "shared" if shared else "unique", done[0], arguments.tokens, done[1]
                        )
                        if name == "foundling" and not shared:
                            alone = engine_rate(path, clients, shared, arguments.tokens)
                            print(f"{'':21}engine alone  {alone:7.0f} tokens/s; over HTTP {rate / alone:.0%} of it")


if __name__ == "__main__":
    main()
