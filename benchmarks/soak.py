"""Leave a server under abuse: 64 clients that stream, cancel, dawdle, and send nonsense, beside schemathesis.

The clients stream answers (some of `n`, with logprobs or a schema), leave in the middle, read slowly or not at all,
send giant prompts, malformed bodies, hostile schemas and patterns, and long lists to embed. schemathesis makes up
bodies, valid and not, from the server's OpenAPI.

Passes (exit 0) if every accepted request was answered, nothing was answered with 500 or a traceback, the p99 of /health
(asked from a process of its own) stays under 100 ms, no request or cache block is held afterwards, and nothing leaks:
at rest after the run the server holds less than 2% more than at rest before it, and before it came as long a warm-up
of the same abuse. (Under load memory is mostly what is in flight, which says little of what stays.) The cache is kept
small (16384 tokens): it is memory that is touched as it is first used, and a small one is soon full.

    pip install -e '.[soak]'
    python benchmarks/soak.py [--model smollm2-135m-instruct] [--minutes 5] [--clients 64]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import http.client
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from foundling.core.hardware import describe

BIN = Path(sys.executable).parent
CHAT = "/v1/chat/completions"
MALFORMED = [
    b"{", b"\xff\xfe", b"[]", b"\x00" * 9, b'{"model": 1}', b"[" * 50_000, b'{"a":' * 5000 + b"1" + b"}" * 5000,
    b'{"model": "model", "messages": [{"role": "user"}], "n": -1}', b'{"model": "model", "messages": "\\ud800"}',
]  # fmt: skip


def nested(depth: int, schema: Any) -> Any:
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


HOSTILE: list[Any] = [
    {"type": "string", "pattern": "^(a+)+$"},
    {"type": "string", "pattern": "(a{1,1000}){1,1000}"},
    {"type": "string", "pattern": "^.*a.{200}$"},
    {"type": "string", "pattern": "((((" * 50},
    {"type": "string", "pattern": "(?=a)b"},
    {"type": "string", "minLength": 100_000},
    {"type": "array", "items": {"type": "integer"}, "minItems": 1_000_000},
    {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(1500)}},
    {"anyOf": [{"type": "object", "properties": {f"k{i}": {"const": i}}, "required": [f"k{i}"]} for i in range(300)]},
    {"enum": ["x" * 100_000]},
    {"$ref": "#"},
    {"$ref": "file:///etc/passwd"},
    {"$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}, {"type": "null"}]}}, "$ref": "#/$defs/a"},
    nested(300, {"type": "null"}),
    {"type": "integer", "minimum": 5, "maximum": 3},
]


LEFT = ("held", "running", "waiting", "cache_used_ratio")
REST_SECONDS = 30


@dataclass
class Bout:
    """What was seen in one time of abuse: seconds of each /health, bytes of memory, schemathesis' verdict."""

    health: list[float]
    memory: list[int]
    code: int
    fuzzed: str


class Abuse:
    """The clients and what they saw."""

    def __init__(self, url: str, seed: int) -> None:
        self.http = httpx.AsyncClient(base_url=url, timeout=600, limits=httpx.Limits(max_connections=None))
        self.random = random.Random(seed)
        self.seen: Counter[str] = Counter()

    async def client(self, until: float) -> None:
        """One client: a random deed after the other."""
        deeds = [self.stream] * 4 + [self.cancel, self.cancel, self.dawdle, self.walk_off, self.whole]
        deeds += [self.malformed, self.giant, self.hostile, self.embed]
        while time.monotonic() < until:
            deed = self.random.choice(deeds)
            try:
                await deed()
            except (httpx.HTTPError, OSError) as error:
                self.seen[f"broken: {deed.__name__}: {type(error).__name__}"] += 1

    def body(self, **fields: Any) -> dict[str, Any]:
        words = " ".join(self.random.choices(["the", "quick", "brown", "fox", "été", "数", "<|im_end|>"], k=30))
        messages = [{"role": "user", "content": words}]
        return {"model": "model", "messages": messages, "max_tokens": self.random.randint(1, 60), **fields}

    def streamed(self) -> dict[str, Any]:
        fields: dict[str, Any] = {"stream": True, "n": self.random.choice([1, 1, 3])}
        fields["logprobs"] = self.random.random() < 0.3
        if self.random.random() < 0.2:
            fields["response_format"] = {"type": "json_object"}
        return self.body(**fields)

    async def stream(self, pause: float = 0.0, cut: int | None = None) -> None:
        async with self.http.stream("POST", CHAT, json=self.streamed()) as answer:
            last, count = "", 0
            async for line in answer.aiter_lines():
                last, count = line or last, count + 1
                if cut is not None and count > cut:
                    self.seen["left in the middle"] += 1
                    return
                await asyncio.sleep(pause)
        whole = answer.status_code != 200 or last == "data: [DONE]"
        self.seen[f"stream {answer.status_code}" if whole else f"broken: a stream ended with {last[:200]}"] += 1

    async def cancel(self) -> None:
        await self.stream(cut=self.random.randint(0, 20))

    async def dawdle(self) -> None:
        await self.stream(pause=0.05)

    async def walk_off(self) -> None:
        """Ask, read nothing, and hang up later; or announce a body and never send it."""
        _, writer = await asyncio.open_connection(self.http.base_url.host, self.http.base_url.port)
        content = json.dumps(self.streamed()).encode() if self.random.random() < 0.7 else b"{"
        head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Content-Length: {max(len(content), 50)}\r\n\r\n".encode() + content)
        await asyncio.sleep(self.random.uniform(0.1, 3))
        writer.transport.abort()
        self.seen["walked off"] += 1

    async def whole(self) -> None:
        self.count("whole", await self.http.post(CHAT, json=self.body(seed=self.random.randint(0, 9))))

    async def malformed(self) -> None:
        headers = {"Content-Type": "application/json"}
        self.count("malformed", await self.http.post(CHAT, content=self.random.choice(MALFORMED), headers=headers))

    async def giant(self) -> None:
        path, body = self.random.choice(
            [
                (CHAT, self.body(messages=[{"role": "user", "content": "x " * 5_000}])),
                (CHAT, self.body(messages=[{"role": "user", "content": "x" * 500_000}])),
                (CHAT, self.body(messages=[{"role": "user", "content": "x" * 9_000_000}])),
                (CHAT, self.body(stop=["y" * 100_000])),
                ("/v1/completions", {"model": "model", "prompt": [7] * 500_000}),
                ("/tokenize", {"prompt": "x y " * 250_000}),
            ]
        )
        self.count("giant", await self.http.post(path, json=body))

    async def hostile(self) -> None:
        form = {"type": "json_schema", "json_schema": {"name": "x", "schema": self.random.choice(HOSTILE)}}
        self.count("hostile", await self.http.post(CHAT, json=self.body(response_format=form)))

    async def embed(self) -> None:
        texts = [f"text {i} " * self.random.choice([1, 20]) for i in range(self.random.choice([1, 8, 40]))]
        self.count("embed", await self.http.post("/v1/embeddings", json={"model": "model", "input": texts}))

    def count(self, deed: str, answer: httpx.Response) -> None:
        fine = answer.status_code in {200, 400, 413, 429} and json.loads(answer.content)
        self.seen[f"{'' if fine else 'broken: '}{deed} {answer.status_code}"] += 1


def probe(port: int, seconds: float) -> list[float]:
    """Seconds that /health took, asked five times a second."""
    end, taken = time.monotonic() + seconds, []
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    while time.monotonic() < end:
        begin = time.perf_counter()
        connection.request("GET", "/health")
        assert connection.getresponse().read()
        taken.append(time.perf_counter() - begin)
        time.sleep(0.2)
    return taken


async def memory_of(server: psutil.Process, until: float) -> list[int]:
    taken = []
    while time.monotonic() < until:
        taken.append(server.memory_info().rss)
        await asyncio.sleep(0.5)
    return taken


async def at_rest(play: Abuse, server: psutil.Process) -> tuple[int, dict[str, float]]:
    """The server's memory a while after its last request, and what /metrics says it still holds."""
    await asyncio.sleep(REST_SECONDS)
    page = (await play.http.get("/metrics")).text
    left = {name: float(re.findall(rf"foundling_{name}{{.*?}} (\S+)", page)[0]) for name in LEFT}
    return server.memory_info().rss, left


def schemathesis(url: str, seconds: float, report: Path) -> subprocess.Popen[bytes]:
    """Bodies from our own OpenAPI; /ready is left out, as it rightly says 503 when the server is full."""
    checks = "not_a_server_error,content_type_conformance,response_schema_conformance"
    command = [str(BIN / "schemathesis"), "run", f"{url}/openapi.json", "--exclude-path", "/ready", "--checks", checks]
    command += ["--max-time", str(max(1, int(seconds))), "--phases", "coverage,fuzzing", "--request-timeout", "180"]
    command += ["--continue-on-failure", "--no-shrink", "--no-color", "--suppress-health-check", "all", "-w", "2"]
    return subprocess.Popen(command, stdout=report.open("wb"), stderr=subprocess.STDOUT, cwd=report.parent)


async def bout(play: Abuse, clients: int, seconds: float, url: str, server: psutil.Process, report: Path) -> Bout:
    """All clients, schemathesis and the asker of /health for so long; what they saw."""
    until = time.monotonic() + seconds
    fuzzer = schemathesis(url, seconds * 0.8, report)
    command = [sys.executable, __file__, "--probe", url.rsplit(":", 1)[1], str(seconds)]
    prober = subprocess.Popen(command, stdout=subprocess.PIPE)
    memory, *_ = await asyncio.gather(memory_of(server, until), *(play.client(until) for _ in range(clients)))
    health = json.loads(await asyncio.to_thread(lambda: prober.communicate()[0]))
    await asyncio.to_thread(fuzzer.wait, 120)
    return Bout(health, memory, fuzzer.returncode, report.read_text())


async def abuse(arguments: argparse.Namespace, url: str, server: psutil.Process, folder: Path) -> bool:
    play, seconds, report = Abuse(url, arguments.seed), 60 * arguments.minutes, folder / "schemathesis.txt"
    await bout(play, arguments.clients, seconds, url, server, report)
    before, _ = await at_rest(play, server)
    seen = await bout(play, arguments.clients, seconds, url, server, report)
    after, left = await at_rest(play, server)
    await play.http.aclose()
    return judge(play.seen, seen, before, after, left)


def judge(seen: Counter[str], bout: Bout, before: int, after: int, left: dict[str, float]) -> bool:
    """Print what happened; whether all of it was as it must be."""
    for what, count in sorted(seen.items()):
        print(f"{count:8}  {what}")
    cases = re.findall(r"^.*(?:test cases|generated).*$", bout.fuzzed, re.MULTILINE)
    print(f"schemathesis: {cases[-1].strip() if cases else ''} exit code {bout.code}")
    if bout.code:
        print(bout.fuzzed[-3000:])
    p99 = statistics.quantiles(bout.health, n=100)[98]
    middle, asked = statistics.median(bout.health), len(bout.health)
    print(f"health p50 {middle * 1e3:.0f} ms, p99 {p99 * 1e3:.0f} ms ({asked} times)")
    count = len(bout.memory)
    eighths = [bout.memory[i * count // 8 : (i + 1) * count // 8] for i in range(8)]
    print("memory under load, MB, in each eighth of the run:", [round(statistics.median(e) / 1e6) for e in eighths])
    print(f"memory at rest {before / 1e6:.0f} MB before, {after / 1e6:.0f} MB after: {after / before - 1:+.1%}")
    print(f"left behind: {left}")
    broken = sum(count for what, count in seen.items() if what.startswith("broken"))
    return not broken and not bout.code and p99 < 0.1 and after < 1.02 * before and not any(left.values())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--probe", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.probe:
        print(json.dumps(probe(int(arguments.probe[0]), float(arguments.probe[1]))))
        return 0
    print(f"{describe()}; {arguments.clients} clients, {arguments.minutes:g} minutes, {arguments.model}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = [str(BIN / "foundling"), "serve", arguments.model, "--name", "model", "--dtype", "bfloat16"]
        command += ["--port", "0", "--log", os.devnull, "--max-requests", "96", "--cache-tokens", "16384"]
        with (folder / "errors.txt").open("wb") as errors:
            child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
        assert child.stdout is not None
        try:
            url = re.search(r"http://\S+(?=/v1)", child.stdout.readline())[0]  # type: ignore[index]
            passed = asyncio.run(abuse(arguments, url, psutil.Process(child.pid), folder))
            passed &= child.poll() is None
        finally:
            child.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(60)
        said = (folder / "errors.txt").read_text()
        print(f"exit code {child.returncode}; the server said on standard error: {said[-3000:] or 'nothing'}")
        passed &= child.returncode == 0 and "Traceback" not in said
    print("passed" if passed else "FAILED")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
