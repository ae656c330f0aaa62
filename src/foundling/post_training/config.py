"""What each post-training method is asked to do. No torch here."""

from __future__ import annotations

from typing import Literal

from foundling.core.config import option
from foundling.training.config import ScheduleName, TrainingConfig

EXPRESSIONS = "expressions"
Policy = Literal["refuse", "skip", "truncate"]


class SFTConfig(TrainingConfig):
    """The stage `sft`: the loss is on what the assistant says, and on nothing else."""

    data: tuple[str, ...] = option(
        (EXPRESSIONS,), "chat or prompt/completion rows (.jsonl, .parquet), or the task `expressions`", min_length=1
    )
    examples: int = option(10_000, "examples to generate of a task", ge=1)
    epochs: float = option(1.0, "passes over the examples", gt=0)
    init: Literal["base", "random"] = option(
        "base", "random: the base's architecture and tokenizer with fresh weights, to see what pretraining bought"
    )
    too_long: Policy = option("refuse", "an example longer than the context: refuse, skip (counted) or truncate")
    invalid: Literal["refuse", "skip"] = option("refuse", "a row that is no chat: refuse, or skip (counted)")
    steps: int = option(0, "optimizer steps; 0: as many as the epochs take", ge=0)
    batch_size: int = option(16, "packed rows in one step", ge=1)
    learning_rate: float = option(1e-3, "peak rate of AdamW: vectors, embeddings, head", gt=0, le=10)
    matrix_learning_rate: float = option(0.01, "peak rate of Muon, for the matrices of the blocks", gt=0, le=10)
    schedule: ScheduleName = option("linear", "shape of the learning rate over the steps")


class ReinforceConfig(TrainingConfig):
    """The stage `reinforce`: GRPO on a task whose answers a verifier can grade."""

    task: Literal["expressions"] = option("expressions", "the verifiable task")
    prompts: int = option(32, "instructions in a step", ge=1)
    samples: int = option(8, "answers sampled for each instruction: the group", ge=2)
    temperature: float = option(1.0, "of the samples", gt=0)
    max_tokens: int = option(48, "longest answer in tokens", ge=1)
    clip_low: float = option(0.2, "how far below 1 the probability ratio may push", gt=0, lt=1)
    clip_high: float = option(0.28, "how far above 1 (DAPO's clip-higher)", gt=0)
    kl: float = option(0.0, "weight of the KL penalty to the model it started from; 0: none", ge=0)
    normalise_std: bool = option(False, "divide advantages by the group's standard deviation (GRPO; Dr. GRPO does not)")
    steps: int = option(30, "optimizer steps, each on fresh samples", ge=1)
    batch_size: int = option(256, "prompts times samples; set by them", ge=1)
    micro_batch: int = option(0, "rows in one forward pass; 0: all", ge=0)
    context: int = option(128, "longest prompt with its answer, in tokens", ge=2)
    learning_rate: float = option(2e-4, "peak rate of AdamW: vectors, embeddings, head", gt=0, le=10)
    matrix_learning_rate: float = option(2e-3, "peak rate of Muon, for the matrices of the blocks", gt=0, le=10)
    schedule: ScheduleName = option("constant", "shape of the learning rate over the steps")
    warmup: float = option(0.1, "part of the steps in which the rate rises from zero", ge=0, lt=1)
