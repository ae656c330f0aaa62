"""How to make a model smaller. No torch."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import model_validator

from foundling.core.config import Config, option

Bits = Literal[4, 8, 16]
CALIBRATED = ("gptq", "awq")


class PruneConfig(Config):
    """Set weights of the linear layers to zero. The files do not get smaller by it, nor the model faster here."""

    method: Literal["magnitude", "wanda", "sparsegpt"] = option(
        "sparsegpt",
        "magnitude: the smallest; wanda: the smallest times their inputs; sparsegpt: the rest makes up for it",
    )
    sparsity: float = option(0.5, "share of each layer's weights to remove", gt=0, lt=1)
    pattern: Literal["free", "2:4"] = option("free", "2:4: two of every four neighbours, which GPUs can skip")

    @model_validator(mode="after")
    def _half(self) -> Self:
        if self.pattern == "2:4" and self.sparsity != 0.5:
            raise ValueError("the pattern 2:4 removes half of the weights: leave sparsity at 0.5")
        return self


class ShrinkConfig(Config):
    """Remove whole parts, the least important first; what is left is an ordinary smaller model."""

    layers: int = option(0, "blocks to remove: those that change their input least", ge=0)
    heads: int = option(0, "key/value heads to remove from every block, with their query heads", ge=0)
    channels: float = option(0.0, "share of the feed-forward channels to remove from every block", ge=0, lt=1)
    experts: int = option(0, "experts to remove from every mixture", ge=0)
    merge_experts: bool = option(False, "merge a removed expert into the most similar one that stays")


class CompressConfig(Config):
    """The `compress` stage: fewer parts, fewer weights, fewer bits, in this order, each only if asked for."""

    bits: Bits = option(8, "bits per weight; 16: bfloat16")
    numbers: Literal["int", "fp8", "nf4"] = option(
        "int", "integers; fp8: float8 with a scale for each output; nf4: QLoRA's 4-bit normal floats, in groups of 64"
    )
    group_size: int | None = option(32, "inputs that share a scale; null: all inputs of an output", gt=0)
    symmetric: bool = option(True, "no zero points; what the fast kernels take")
    int8_inputs: bool = option(False, "inputs in int8, too: 8 bits with one scale for each output")
    method: Literal["nearest", "search", "gptq", "awq"] = option(
        "search",
        "nearest: scales from the largest weight; search: scales with the smallest squared error; with text: gptq: "
        "each column makes up for the errors of those before it; awq: inputs that matter are scaled up",
    )
    act_order: bool = option(True, "gptq: the largest inputs first")
    max_bytes: int | None = option(
        None, "mixed precision: raise the layers that lose most to 8 bits, up to this size of the weights", gt=0
    )
    prune: PruneConfig | None = option(None, "set weights to zero")
    shrink: ShrinkConfig | None = option(None, "remove layers, heads, channels or experts")
    keep: tuple[str, ...] = option(("output",), "layers left in 16 bits, by name; `*` matches anything")
    format: Literal["safetensors", "gguf"] = option("safetensors", "gguf: one file for llama.cpp, q8_0, q4_0 or q4_1")
    text: tuple[str, ...] = option(
        (),
        "calibration text files (without a corpus their last fifth is held out); none: the corpus's training text",
    )
    calibration_rows: int = option(64, "rows of calibration text", ge=1)
    calibration_length: int = option(256, "tokens in a row", ge=2)
    compare_bytes: int = option(60_000, "held-out text on which the result is compared with the original", ge=0)
    seed: int = option(0, "which text")

    @model_validator(mode="before")
    @classmethod
    def _implied(cls, data: dict[str, object]) -> dict[str, object]:
        """What a number format fixes need not be said."""
        implied: dict[str, dict[str, object]] = {
            "fp8": {"bits": 8, "group_size": None},
            "nf4": {"bits": 4, "group_size": 64},
        }
        fixed = implied.get(str(data.get("numbers", "int")), {})
        if data.get("int8_inputs") and not fixed:
            fixed = {"bits": 8, "group_size": None}
        for name, value in fixed.items():
            if data.setdefault(name, value) != value:
                given = "int8_inputs" if data.get("int8_inputs") else f"numbers {data['numbers']!r}"
                raise ValueError(f"{name} {data[name]} does not go with {given}, for which it is {value}")
        return data

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.method in CALIBRATED and (self.numbers != "int" or self.int8_inputs or self.bits == 16):
            raise ValueError(
                f"method {self.method!r} chooses integer weights of 4 or 8 bits; use 'nearest' or 'search'"
            )
        if self.max_bytes is not None and (self.bits != 4 or self.numbers != "int"):
            raise ValueError("max_bytes mixes int4 and int8: set bits to 4")
        if self.format == "gguf" and self.bits < 16 and (self.group_size != 32 or self.numbers != "int"):
            raise ValueError("gguf's formats are integers in groups of 32")
        if self.format == "gguf" and self.bits == 8 and not self.symmetric:
            raise ValueError("gguf has no 8-bit integers with zero points")
        return self

    @property
    def needs_text(self) -> bool:
        """Whether it has to see what flows through the model."""
        measured = self.prune is not None and self.prune.method != "magnitude"
        return self.method in CALIBRATED or measured or self.shrink is not None or self.max_bytes is not None
