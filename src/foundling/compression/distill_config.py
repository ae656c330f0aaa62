"""How a small model is taught by a large one. No torch."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import model_validator

from foundling.core.config import option
from foundling.training.config import MAX_RATE, TrainingConfig

EXPRESSIONS = "expressions"


class DistillConfig(TrainingConfig):
    """The stage `distill`: learn the teacher's predictions, on text, on its answers, or on the student's own."""

    learning_rate: float = option(0.015, "peak rate of AdamW: vectors, embeddings, head", gt=0, le=MAX_RATE)
    preset: str = option("foundling-1m", "the student's architecture, with random weights; ignored with a base model")
    teacher_url: str = option("", "an OpenAI-compatible URL (URL#model) in place of the input `teacher`")
    divergence: Literal["forward", "reverse", "js"] = option(
        "forward", "forward: KL(teacher || student); reverse: KL(student || teacher); js: between the two"
    )
    js_weight: float = option(0.5, "js: the teacher's share of the mixture that both are compared with", gt=0, lt=1)
    temperature: float = option(1.0, "flattens both distributions, so that unlikely tokens teach more", gt=0)
    own_text: float = option(0.0, "share of the loss that is cross entropy of the text's own tokens", ge=0, le=1)
    top_k: int = option(
        0, "learn the teacher's k best tokens and the rest as one, computed once and kept; 0: all", ge=0
    )
    hidden: float = option(0.0, "weight of 1 - cosine of the last hidden states, through a learned projection", ge=0)
    prompts: tuple[str, ...] = option(
        (), "learn on answers to these prompts, not on text: the task `expressions`, or rows {messages} (.jsonl)"
    )
    examples: int = option(2000, "prompts of a task", ge=1)
    on_policy: float = option(
        0.0, "share of the steps whose answers the student writes itself, not the teacher", ge=0, le=1
    )
    max_tokens: int = option(48, "longest answer in tokens", ge=1)
    answer_temperature: float = option(1.0, "of the sampled answers", gt=0)
    draft_tokens: int = option(
        0,
        "train no student, but a head that foresees so many of the teacher's tokens, for speculation; 4 is usual",
        ge=0,
    )
    validation_tokens: int = option(200_000, "held-out tokens that are scored, where text is learned from", ge=1)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.top_k and self.temperature != 1:
            raise ValueError("top_k keeps probabilities, not logits: temperature must be 1")
        if self.top_k and self.prompts:
            raise ValueError("top_k is for text, which comes again; answers are scored as they are written")
        if self.draft_tokens and (self.prompts or self.teacher_url or self.top_k or self.hidden or self.own_text):
            raise ValueError("draft_tokens: a head learns from a teacher here on text, by its predictions alone")
        if self.draft_tokens and (self.recompute != "none" or self.compile or self.precision == "fp8" or self.dropout):
            raise ValueError("draft_tokens: a head has no blocks for recompute, compile, fp8 or dropout")
        if self.on_policy and not self.prompts:
            raise ValueError("on_policy needs prompts to answer")
        if self.teacher_url and (self.hidden or self.temperature != 1):
            raise ValueError("a URL gives probabilities only: hidden must be 0 and temperature 1")
        if self.teacher_url and not self.prompts and not self.top_k:
            raise ValueError("a URL gives the best tokens only: set top_k (20 at most servers)")
        if self.teacher_url and self.prompts and (self.own_text < 1 or self.on_policy):
            raise ValueError("with prompts, a URL can only write the answers to learn: set own_text to 1")
        return self
