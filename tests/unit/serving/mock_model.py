"""A model without weights: an engine that says a scripted reply, one token of every request per step."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors

from foundling.core.errors import FoundlingError
from foundling.inference.requests import Event, Request
from foundling.inference.stats import Stats
from foundling.models.pooling import PoolingConfig
from foundling.tokenization.chat import CHATML
from foundling.tokenization.tokenizer import Tokenizer

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


def byte_tokenizer() -> Tokenizer:
    """A byte-level tokenizer without merges: 256 bytes and the control tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {text: i for i, text in enumerate([*SPECIAL, *alphabet])}
    fast = tokenizers.Tokenizer(models.BPE(vocabulary, []))
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.decoder = decoders.ByteLevel()
    fast.post_processor = processors.ByteLevel(trim_offsets=False)
    fast.add_special_tokens(list(SPECIAL))
    config = {"chat_template": CHATML, "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    return Tokenizer(fast, config)


@dataclass
class MockEngine:
    """Says `reply` to everything, up to max_tokens; `slow` waits for `go` before each step; counts what it holds."""

    tokenizer: Tokenizer
    reply: str = "hello"
    later: str | None = None  # said to every request but the first
    running: dict[int, tuple[Request, int]] = field(default_factory=dict)
    seen: list[Request] = field(default_factory=list)
    cancelled: list[int] = field(default_factory=list)
    refuse: FoundlingError | None = None
    broken: bool = False
    ending: str | None = None
    special: bool = False
    adapters: list[str] = field(default_factory=list)
    pooling: PoolingConfig = field(default_factory=PoolingConfig)
    embedded: list[int] = field(default_factory=list)  # how many texts each call had
    go: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.go.set()

    def add(self, request: Request) -> int:
        if self.refuse:
            raise self.refuse
        self.seen.append(request)
        self.running[len(self.seen)] = (request, 0)
        return len(self.seen)

    def embed(self, texts: list[str]) -> np.ndarray:
        self.embedded.append(len(texts))
        return np.ones((len(texts), 2), dtype=np.float32)

    def compile(self, grammar: object) -> None:
        """Nothing to compile: the reply is what it is."""

    def cancel(self, request_id: int) -> None:
        self.cancelled.append(request_id)
        self.running.pop(request_id, None)

    def stats(self) -> Stats:
        return Stats(seconds=1.0, generated_tokens=100)

    def step(self) -> list[Event]:
        if not self.go.wait(0.01):
            return []
        if self.broken:
            raise RuntimeError("a kernel failed")
        events = []
        for key, (request, done) in list(self.running.items()):
            said = self.later if self.later is not None and key > 1 else self.reply
            reply = self.tokenizer.encode(said, special=self.special)
            ids = reply[: request.params.max_tokens]
            last = done + 1 >= len(ids)
            cut = len(ids) < len(reply)
            reason = (self.ending or ("length" if cut else "stop")) if last else None
            events += [make_event(self, key, i, ids[: done + 1], reason, request) for i in range(request.params.n)]
            self.running[key] = (request, done + 1)
            if last:
                del self.running[key]
        return events


def make_event(engine: MockEngine, key: int, index: int, ids: list[int], reason: str | None, request: Request) -> Event:
    """The event of the last of `ids`, with three alternatives of falling probability when they are asked for."""
    before, now = (
        b"".join(map(engine.tokenizer.token_bytes, some)).decode(errors="ignore") for some in (ids[:-1], ids)
    )
    alternatives = [{ids[-1]: -0.1, 5: -3.0, 6: -4.0}] if request.params.logprobs is not None else None
    text = "" if ids[-1] in engine.tokenizer.stop_ids else now.removeprefix(before)
    return Event(key, index, text, [ids[-1]], [-0.1], alternatives, reason)


def mock_model(context: int = 64, **options: object) -> SimpleNamespace:
    """A stand-in for `foundling.Model`."""
    tokenizer = byte_tokenizer()
    config = SimpleNamespace(max_positions=context, vocab_size=tokenizer.vocab_size)
    engine = MockEngine(tokenizer, **options)  # type: ignore[arg-type]
    return SimpleNamespace(
        module=SimpleNamespace(config=config),
        tokenizer=tokenizer,
        engine=engine,
        request=lambda prompt: Request(tokenizer.encode(prompt)),
    )
