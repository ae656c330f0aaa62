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
        generated_tokens: tokens sampled.
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
