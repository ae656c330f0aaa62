"""What the studies are asked to do. No torch here."""

from __future__ import annotations

from typing import Literal

from foundling.core.config import Config, option

ARCHITECTURES = (
    "mha", "gqa", "mqa", "moe", "mamba", "mamba2", "rwkv4", "rwkv7", "h3", "s4", "jamba", "lstm",
)  # fmt: skip


class CompareArchitecturesConfig(Config):
    """`compare-architectures`: the same data, budget and tuning for each design; `patterns` adds your own stacks."""

    architectures: tuple[str, ...] = option(ARCHITECTURES, "designs to compare, by name or as a pattern")
    equal: Literal["parameters", "flops"] = option("parameters", "what is held equal beside the data")
    parameters: int = option(1_000_000, "weights outside the embeddings of each model (of `mha`, for flops)", ge=10_000)
    layers: int = option(4, "depth of each model, in attention + feed-forward layers", ge=1)
    seeds: int = option(3, "trainings of each design; intervals need at least 3", ge=2)
    seed: int = option(0, "first seed", ge=0)
    steps: int = option(300, "training steps", ge=1)
    batch_size: int = option(16, "rows in one step", ge=1)
    context: int = option(256, "tokens in a row", ge=2)
    learning_rates: tuple[float, ...] = option(
        (0.01, 0.02), "matrix learning rates that each design may try, on its first seed", min_length=1
    )
    tuning_steps: int = option(100, "steps of each try", ge=1)
    validation_tokens: int = option(50_000, "tokens of the validation split that are scored", ge=1)
    decode_contexts: tuple[int, ...] = option((128, 1024, 8192), "context lengths at which decoding is timed")
    decode_rows: int = option(1, "sequences decoded together", ge=1)


class ProbesConfig(Config):
    """`probe-architectures`: small synthetic tasks that tell designs apart, trained for real."""

    tasks: tuple[str, ...] = option(
        ("associative_recall", "induction", "copying", "classification", "extrapolation", "translation"), "tasks to run"
    )
    seeds: int = option(3, "trainings of each design on each task", ge=1)
    seed: int = option(0, "first seed", ge=0)
    dim: int = option(64, "width of each model", ge=16)
    layers: int = option(2, "blocks of each model", ge=1)
    steps: int = option(0, "training steps; 0: each task's own, by which most designs that can learn it have", ge=0)
    batch_size: int = option(32, "rows in one step", ge=1)
    learning_rate: float = option(2e-3, "AdamW's peak rate", gt=0)
    matrix_learning_rate: float = option(0.01, "Muon's peak rate", gt=0)
    test_rows: int = option(512, "rows of fresh data that are scored", ge=1)


class ScaleConfig(Config):
    """The last stage of `scale`: a law fitted to the models of a ladder, and checked on those held out."""

    held_out: tuple[str, ...] = option((), "input ports whose models are predicted, not fitted")
    loss: str = option("validation_bits_per_byte", "metric of the models that is the loss")
    bootstraps: int = option(400, "resamplings behind each interval", ge=20)
    delta: float = option(0.01, "log loss up to which a miss counts squared: about the noise of one run", gt=0)
    seed: int = option(0, "of the resampling", ge=0)
