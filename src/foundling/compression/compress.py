"""The stage `compress`: a model in, the same model with fewer bits per weight out, and what that cost in fidelity.

the model        a Hugging Face directory in compressed-tensors' pack-quantized layout
compression.json size, error of each layer, and on held-out text KL to the original and agreement with it
timings.json     decoding speed before and after
"""

from __future__ import annotations

import copy
import fnmatch
import json
import shutil
import time
from pathlib import Path
from typing import Any

from torch import nn

from foundling.compression.config import CompressConfig
from foundling.compression.fidelity import layer_errors, prediction_changes
from foundling.compression.rounding import search_scales
from foundling.core import progress
from foundling.core.artifacts import Artifact, Draft
from foundling.core.errors import FoundlingError, nearest
from foundling.core.stages import Inputs
from foundling.core.units import human_bytes
from foundling.evaluation.documents import Documents
from foundling.inference.engine import Engine, Request, SamplingParams
from foundling.models.checkpoint import load_module, save_module
from foundling.models.language_model import LanguageModel
from foundling.models.quantized import QuantizedLinear, Scheme, from_codes
from foundling.models.rounding import quantize_linear
from foundling.tokenization.tokenizer import Tokenizer

COPIED = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json")
DECODED_TOKENS = 64


def build(config: CompressConfig, inputs: Inputs, draft: Draft) -> None:
    """Run the stage."""
    source = inputs["model"].path
    original, tokenizer = load_module(source), Tokenizer.load(source)
    compressed = copy.deepcopy(original)
    names = compress_module(compressed, config)
    save_module(compressed, draft.path)
    for name in COPIED:
        if (source / name).is_file():
            shutil.copyfile(source / name, draft.file(name))
    report = _report(config, inputs, draft.path, original, compressed, tokenizer, names)
    draft.file("compression.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    draft.file("README.md").write_text(_card(source, config, report), encoding="utf-8")
    draft.metrics |= {name: value for name, value in report.items() if name != "layers"}
    speeds = {"original": decode_speed(original, tokenizer), "compressed": decode_speed(compressed, tokenizer)}
    draft.timings["decode_tokens_per_second"] = speeds
    draft.file("timings.json").write_text(json.dumps(speeds, indent=2) + "\n", encoding="utf-8")


def compress_module(module: LanguageModel, config: CompressConfig) -> list[str]:
    """Replace the linear layers of `module` by quantized ones, in place; returns their names.

    Raises:
        FoundlingError: a pattern in `keep` matches no layer, no layer is left to compress, or the model is already
            quantized.
    """
    linear = {name: part for name, part in module.named_modules() if isinstance(part, nn.Linear)}
    if any(isinstance(part, QuantizedLinear) for part in module.modules()):
        raise FoundlingError("the model is already quantized", "its original weights are gone", "Compress the original")
    # A tied head is the embedding's matrix and no layer of its own.
    wanted = [pattern for pattern in config.keep if pattern != "output" or "output" in linear]
    for pattern in wanted:
        if not fnmatch.filter(linear, pattern):
            raise FoundlingError(f"`keep` names {pattern!r}, which is no linear layer", nearest(pattern, linear))
    chosen = [name for name in linear if not any(fnmatch.fnmatch(name, pattern) for pattern in wanted)]
    if not chosen:
        raise FoundlingError("no layer is left to compress", f"`keep` matches all {len(linear)}")
    scheme = Scheme(bits=config.bits, group_size=config.group_size, symmetric=config.symmetric)
    with progress.task("compress", total=len(chosen), unit="layers") as bar:
        for name in chosen:
            module.set_submodule(name, _quantized(linear[name], scheme, config))
            bar.advance()
    return chosen


def decode_speed(module: LanguageModel, tokenizer: Tokenizer) -> float:
    """Tokens per second of one greedy continuation, after one to warm up."""
    engine = Engine(module, tokenizer, max_batch=1)
    length = min(DECODED_TOKENS, module.config.max_positions - 1)
    request = Request([tokenizer.eot_id], SamplingParams(max_tokens=length, ignore_eos=True))
    engine.generate([request])
    started = time.perf_counter()
    completion = engine.generate([request])[0]
    return round(len(completion.tokens) / (time.perf_counter() - started), 2)


def _quantized(linear: nn.Linear, scheme: Scheme, config: CompressConfig) -> QuantizedLinear:
    if config.method == "nearest":
        return quantize_linear(linear, scheme)
    return from_codes(*search_scales(linear.weight, scheme), linear.bias, scheme)


def _report(
    config: CompressConfig,
    inputs: Inputs,
    result: Path,
    original: LanguageModel,
    compressed: LanguageModel,
    tokenizer: Tokenizer,
    names: list[str],
) -> dict[str, Any]:
    before, after = _weight_bytes(inputs["model"].path), _weight_bytes(result)
    report: dict[str, Any] = {
        "bits": config.bits,
        "bytes": after,
        "original_bytes": before,
        "ratio": before / after,
        "compressed_layers": len(names),
    }
    texts = _held_out(inputs.get("corpus"), config, tokenizer, original.config.max_positions)
    if texts:
        changes = prediction_changes(original, compressed, texts)
        report |= {k: {"value": i.value, "low": i.low, "high": i.high, "n": i.n} for k, i in changes.items()}
    return report | {"layers": layer_errors(original, compressed, names)}


def _held_out(corpus: Artifact | None, config: CompressConfig, tokenizer: Tokenizer, longest: int) -> list[list[int]]:
    """The beginnings of held-out documents, `compare_bytes` in all; none without a corpus."""
    if corpus is None or config.compare_bytes == 0:
        return []
    texts, total = [], 0
    for document in Documents(corpus).shuffled("compress", config.seed):
        ids = [tokenizer.eot_id, *tokenizer.encode(document.text[: 8 * longest])][:longest]
        texts.append(ids)
        total += len(tokenizer.decode(ids).encode())
        if total >= config.compare_bytes:
            break
    return texts


def _weight_bytes(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.glob("*.safetensors"))


def _card(source: Path, config: CompressConfig, report: dict[str, Any]) -> str:
    """The original's card with a section on the compression."""
    card = source / "README.md"
    before = card.read_text(encoding="utf-8").rstrip() + "\n\n" if card.is_file() else "# Compressed model\n\n"
    group = f"groups of {config.group_size} weights" if config.group_size else "one group per output"
    lines = [
        "## Compression",
        "",
        f"Weights of {report['compressed_layers']} linear layers in int{config.bits}, {group}, "
        f"scales by {config.method}; activations are not quantized.",
        f"Size: {human_bytes(report['original_bytes'])} -> {human_bytes(report['bytes'])} ({report['ratio']:.2f}x).",
    ]
    if "kl_bits_per_token" in report:
        kl, same = report["kl_bits_per_token"], report["same_next_token"]
        lines.append(
            f"Against the original on held-out text: KL {kl['value']:.4f} bits per token "
            f"[{kl['low']:.4f}, {kl['high']:.4f}], same next token {same['value']:.1%}."
        )
    return before + "\n".join(lines) + "\n"
