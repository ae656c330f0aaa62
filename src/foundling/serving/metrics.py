"""Prometheus metrics: latency, throughput, queue, cache, and what a million tokens cost."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily

if TYPE_CHECKING:
    from foundling.inference.requests import Event
    from foundling.serving.engine_loop import Stream
    from foundling.serving.service import Service

FIRST_TOKEN_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
BETWEEN_TOKENS_BUCKETS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2)


class Metrics:
    """The server's counters, in a registry of its own."""

    def __init__(self, cost_per_hour: float) -> None:
        self.registry = CollectorRegistry()
        self.cost_per_hour = cost_per_hour
        self.services: Mapping[str, Service] = {}
        self.requests = Counter("foundling_requests", "answers", ["path", "status"], registry=self.registry)
        self.tokens = Counter("foundling_generated_tokens", "tokens generated", registry=self.registry)
        self.prompts = Counter("foundling_prompt_tokens", "tokens of prompts", registry=self.registry)
        self.cached = Counter("foundling_cached_answers", "answers taken from the answer cache", registry=self.registry)
        self.first = Histogram(
            "foundling_time_to_first_token_seconds", "from submission to the first token",
            buckets=FIRST_TOKEN_BUCKETS, registry=self.registry,
        )  # fmt: skip
        self.between = Histogram(
            "foundling_inter_token_seconds", "from one token of a choice to its next",
            buckets=BETWEEN_TOKENS_BUCKETS, registry=self.registry,
        )  # fmt: skip
        self.registry.register(self)

    def observe(self, mail: Iterable[tuple[Stream, list[Event]]]) -> None:
        """Count one step's events; called by an engine's thread."""
        now = time.perf_counter()
        for stream, events in mail:
            count = sum(len(event.tokens) for event in events)
            self.tokens.inc(count)
            if not count:
                continue
            if stream.last_event:
                self.between.observe(now - stream.last_event)
            else:
                self.first.observe(now - stream.submitted)
                self.prompts.inc(len(stream.request.prompt_ids))
            stream.last_event = now

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """Gauges read from the engines when somebody asks (prometheus_client's collector protocol)."""
        names = {
            "held": "requests held, running and waiting",
            "running": "sequences that are computed",
            "waiting": "sequences that wait for room",
            "cache_used_ratio": "share of the key/value cache in use",
            "cache_hit_ratio": "share of prompt tokens taken from the cache, since the start",
            "tokens_per_second": "tokens generated per second of engine time, since the start",
            "cost_per_million_tokens": "at the machine's hourly cost, since the start",
        }
        gauges = {name: GaugeMetricFamily(f"foundling_{name}", text, labels=["model"]) for name, text in names.items()}
        for name, service in self.services.items():
            if service.base is not None:  # its engine is its base's
                continue
            for gauge, value in self._gauges(service).items():
                gauges[gauge].add_metric([name], value)
        return gauges.values()

    def page(self) -> bytes:
        """The text that Prometheus scrapes."""
        return generate_latest(self.registry)

    def _gauges(self, service: Service) -> dict[str, float]:
        stats = service.engine.engine.stats()
        read = stats.computed_tokens + stats.reused_tokens
        rate = stats.generated_tokens / stats.seconds if stats.seconds else 0.0
        return {
            "held": service.engine.held,
            "running": stats.running,
            "waiting": stats.waiting,
            "cache_used_ratio": stats.cache_used / max(stats.cache_tokens, 1),
            "cache_hit_ratio": stats.reused_tokens / read if read else 0.0,
            "tokens_per_second": rate,
            "cost_per_million_tokens": self.cost_per_hour / 3600 / rate * 1e6 if rate else 0.0,
        }
