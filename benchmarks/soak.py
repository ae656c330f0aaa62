"""Leave a server under abuse for some minutes: 64 clients that stream, cancel, dawdle, and send nonsense.

Passes (exit 0) if every accepted request was answered, the p99 of /health stays under 100 ms, no request or cache block
is held afterwards, and the server's memory has grown by less than 2% since the first quarter of the run.

    python benchmarks/soak.py --model PATH --minutes 5
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import re
import statistics
import subprocess
import sys
import time
from collections import Counter
from typing import Any

import httpx
import psutil

SERVER = """
import sys, foundling
from foundling.serving.config import ServeConfig
from foundling.serving.server import serve
serve(foundling.load(sys.argv[1]), ServeConfig(port=0, name="model", max_requests=96))
"""
MALFORMED = [
    b"{",
    b"\xff\xfe",
    b"[]",
    b'{"model": 1}',
    b'{"model": "model", "messages": [{"role": "user"}], "n": -1}',
    b"\x00" * 9,
]
ALLOWED = {200, 400, 404, 413, 429}


class Abuse:
    """The clients and what they saw."""

    def __init__(self, url: str, seed: int) -> None:
        limits = httpx.Limits(max_connections=None)
        self.http = httpx.AsyncClient(base_url=url, timeout=120, limits=limits)
        self.random = random.Random(seed)
        self.seen: Counter[str] = Counter()
        self.health: list[float] = []

    async def client(self, until: float) -> None:
        """One client: a random deed after the other."""
        deeds = [self.stream, self.stream, self.cancel, self.dawdle, self.malformed, self.giant, self.whole]
        while time.monotonic() < until:
            deed = self.random.choice(deeds)
            try:
                await deed()
            except httpx.HTTPError as error:
                self.seen[f"broken: {deed.__name__}: {type(error).__name__}"] += 1

    def body(self, **fields: Any) -> dict[str, Any]:
        words = " ".join(self.random.choices(["the", "quick", "brown", "fox", "été", "数", "<|im_end|>"], k=30))
        messages = [{"role": "user", "content": words}]
        return {"model": "model", "messages": messages, "max_tokens": self.random.randint(1, 60), **fields}

    async def stream(self, pause: float = 0.0, cut: int | None = None) -> None:
        fields = {"stream": True, "n": self.random.choice([1, 1, 3]), "logprobs": self.random.random() < 0.3}
        async with self.http.stream("POST", "/v1/chat/completions", json=self.body(**fields)) as answer:
            self.seen[f"stream {answer.status_code}"] += 1
            last, count = "", 0
            async for line in answer.aiter_lines():
                last, count = line or last, count + 1
                if cut is not None and count > cut:
                    return
                if pause:
                    await asyncio.sleep(pause)
        if answer.status_code == 200 and last != "data: [DONE]":
            self.seen["broken: a stream without an end"] += 1

    async def cancel(self) -> None:
        await self.stream(cut=self.random.randint(0, 20))

    async def dawdle(self) -> None:
        await self.stream(pause=0.05)

    async def malformed(self) -> None:
        content = self.random.choice(MALFORMED)
        answer = await self.http.post(
            "/v1/chat/completions", content=content, headers={"Content-Type": "application/json"}
        )
        self.count("malformed", answer)

    async def giant(self) -> None:
        messages = [{"role": "user", "content": "x" * self.random.choice([10_000, 1_000_000, 9_000_000])}]
        self.count("giant", await self.http.post("/v1/chat/completions", json={"model": "model", "messages": messages}))

    async def whole(self) -> None:
        answer = await self.http.post("/v1/chat/completions", json=self.body(seed=self.random.randint(0, 9)))
        self.count("whole", answer)

    def count(self, deed: str, answer: httpx.Response) -> None:
        odd = "" if answer.status_code in ALLOWED and json.loads(answer.content) else "broken: "
        self.seen[f"{odd}{deed} {answer.status_code}"] += 1

    async def watch(self, until: float, server: psutil.Process, memory: list[int]) -> None:
        """Ask for /health all the time, and note the server's memory."""
        async with httpx.AsyncClient(base_url=self.http.base_url, timeout=30) as own:
            while time.monotonic() < until:
                begin = time.perf_counter()
                await own.get("/health")
                self.health.append(time.perf_counter() - begin)
                memory.append(server.memory_info().rss)
                await asyncio.sleep(0.2)


async def abuse(url: str, server: psutil.Process, minutes: float, clients: int, seed: int) -> bool:
    play, memory = Abuse(url, seed), []  # type: ignore[var-annotated]
    until = time.monotonic() + 60 * minutes
    await asyncio.gather(*(play.client(until) for _ in range(clients)), play.watch(until, server, memory))
    await asyncio.sleep(1)
    page = (await play.http.get("/metrics")).text
    left = {
        name: float(re.search(rf"foundling_{name}{{.*?}} (\S+)", page)[1]) for name in ("held", "running", "waiting")
    }  # type: ignore[index]
    await play.http.aclose()
    for what, count in sorted(play.seen.items()):
        print(f"{count:8}  {what}")
    p99 = statistics.quantiles(play.health, n=100)[98]
    quarter = len(memory) // 4
    growth = statistics.median(memory[-quarter:]) / statistics.median(memory[quarter : 2 * quarter]) - 1
    print(f"health p99 {p99 * 1e3:.0f} ms; memory {memory[-1] / 1e6:.0f} MB, growth {growth:+.1%}; left behind {left}")
    broken = sum(count for what, count in play.seen.items() if what.startswith("broken"))
    return not broken and p99 < 0.1 and growth < 0.02 and not any(left.values())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    command = [sys.executable, "-c", SERVER, arguments.model]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert child.stdout is not None
    try:
        url = re.search(r"http://\S+(?=/v1)", child.stdout.readline())[0]  # type: ignore[index]
        server = psutil.Process(child.pid)
        passed = asyncio.run(abuse(url, server, arguments.minutes, arguments.clients, arguments.seed))
        passed &= child.poll() is None
    finally:
        child.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(60)
    print("passed" if passed else "FAILED")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
