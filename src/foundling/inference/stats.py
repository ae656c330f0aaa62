"""What the engine has done and holds: the numbers behind its speed."""

from __future__ import annotations

from dataclasses import dataclass

from foundling.inference.scheduler import Plan


@dataclass
class Stats:
    """Counts since the engine was made.

    Args:
        steps: forward steps.
        seconds: time spent in steps.
        computed_tokens: tokens that went through the model.
        reused_tokens: prompt tokens taken from the cache instead.
        generated_tokens: tokens drawn.
        forced_tokens: tokens that a grammar left no choice about; they took no step of their own.
        drafted_tokens, accepted_tokens: guesses of speculative decoding, and how many were right.
        speculation_speedup: measured tokens per second with guessing over those without; None: not measured.
        decode_seconds, decode_bytes: time of the steps that only decoded, and the bytes that they had to read: every
            weight once a step, and every sequence's keys and values.
        preemptions: sequences that lost their blocks and were computed again.
        running, waiting: sequences now.
        cache_tokens: room of the cache, in tokens.
        cache_used: of that, in use now.
    """

    steps: int = 0
    seconds: float = 0.0
    computed_tokens: int = 0
    reused_tokens: int = 0
    generated_tokens: int = 0
    forced_tokens: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    speculation_speedup: float | None = None
    decode_seconds: float = 0.0
    decode_bytes: float = 0.0
    preemptions: int = 0
    running: int = 0
    waiting: int = 0
    cache_tokens: int = 0
    cache_used: int = 0

    def count(self, plan: Plan) -> None:
        """Add a step's work."""
        self.steps += 1
        for chunk in plan.chunks:
            self.computed_tokens += chunk.length
            if chunk.start == chunk.sequence.reused:
                self.reused_tokens += chunk.start

    def count_scored(self, passes: int, tokens: int, seconds: float) -> None:
        """Add passes that only scored."""
        self.steps += passes
        self.computed_tokens += tokens
        self.seconds += seconds

    def bandwidth_share(self, bandwidth: float) -> float | None:
        """What decoding reached of the machine's memory bandwidth (bytes/s); None: nothing was decoded.

        1 is the roofline of a step that does nothing but read weights and cache once.
        """
        return self.decode_bytes / self.decode_seconds / bandwidth if self.decode_seconds else None
