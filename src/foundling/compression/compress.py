"""The stage `compress`: a model in, a smaller one out, and what that cost in fidelity.

the model        a Hugging Face directory in a layout that transformers reads, or config, tokenizer and model.gguf
compression.json size, error of each layer, and on held-out text KL to the original and agreement with it
timings.json     decoding and prefill speed before and after
"""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import torch

from foundling.compression.apply import LayerReport, Read, compress_module, left_alone, nothing_to_read, to_json
from foundling.compression.config import CompressConfig
from foundling.compression.fidelity import prediction_changes
from foundling.compression.shrink import shrink
from foundling.compression.texts import calibration, held_out
from foundling.core.artifacts import Draft
from foundling.core.stages import Inputs
from foundling.core.units import human_bytes
from foundling.inference.embedding import embed
from foundling.inference.engine import Engine, Request, SamplingParams
from foundling.inference.runner import inference_of
from foundling.models.checkpoint import Parts, load_module, save_module
from foundling.models.families.translate import config_to_hf, write_json
from foundling.models.gguf_directory import GGUF_LINK
from foundling.models.gguf_file import Precision, save_gguf
from foundling.models.language_model import LanguageModel
from foundling.models.locate import DRAFT_HEAD
from foundling.models.pooling import PoolingConfig, read_pooling, write_pooling
from foundling.tokenization.tokenizer import Tokenizer

COPIED = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json")
DECODED_TOKENS, PREFILLED_TOKENS = 64, 512


def build(config: CompressConfig, inputs: Inputs, draft: Draft) -> None:
    """Run the stage.

    Unless parts are removed or precisions mixed, only one block of the original is in memory at a time.
    """
    source, corpus = inputs["model"].path, inputs.get("corpus")
    tokenizer, parts = Tokenizer.load(source), Parts(source)
    longest = parts.module.config.max_positions
    tokens = calibration(config, corpus, tokenizer, longest) if config.needs_text else None
    module = parts.module
    read: Read = parts.read
    if config.shrink is not None or config.max_bytes is not None:
        module, read = load_module(source), nothing_to_read
    if config.shrink is not None:
        assert tokens is not None
        module = shrink(module, tokens, config.shrink)
    layers = compress_module(module, config, tokens, read)
    write_compressed(module, config, source, draft.path)
    del module, parts
    texts = held_out(corpus, config, tokenizer, longest)
    report = _report(config, source, draft.path, layers)
    original, compressed = load_module(source), load_module(draft.path)
    report["not_compressed"] = left_alone(original)
    if texts and original.config.left_to_right:
        changes = prediction_changes(original, compressed, texts)
        report |= {name: vars(interval) for name, interval in changes.items()}
    elif texts:
        report["cosine"] = same_direction(original, compressed, texts, read_pooling(source))
    report["layers"] = [to_json(layer) for layer in layers]
    draft.file("compression.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    draft.file("README.md").write_text(_card(source, config, report), encoding="utf-8")
    draft.metrics |= {name: value for name, value in report.items() if name not in ("layers", "not_compressed")}
    speeds = {name: speed(one, tokenizer) for name, one in (("original", original), ("compressed", compressed))}
    draft.metrics["memory_bytes"] = memory_bytes(compressed)  # in bfloat16, as `speed` has left it
    draft.timings["decode_tokens_per_second"] = {name: one["decode"] for name, one in speeds.items() if one}
    draft.file("timings.json").write_text(json.dumps(speeds, indent=2) + "\n", encoding="utf-8")


def same_direction(
    original: LanguageModel, compressed: LanguageModel, texts: list[list[int]], pooling: PoolingConfig
) -> float:
    """The mean cosine between a text's vector before and after, for models that are asked for those."""
    pooling = pooling.model_copy(update={"normalize": True})
    with inference_of(original), inference_of(compressed):
        before, after = (embed(module, texts, pooling) for module in (original, compressed))
    return float((before * after).sum(1).mean())


def write_compressed(module: LanguageModel, config: CompressConfig, source: Path, target: Path) -> None:
    """The model's directory: weights in the config's format, and the tokenizer of the source."""
    target.mkdir(parents=True, exist_ok=True)
    if config.format == "gguf":
        write_json(target / "config.json", config_to_hf(module.config))
        save_gguf(module, source, target / GGUF_LINK, gguf_precision(config))
    else:
        save_module(module, target)
    copy_files(source, target, module.config.dim)


def copy_files(source: Path, target: Path, dim: int) -> None:
    """What a model's directory has beside config and weights: the tokenizer, and how texts become vectors."""
    for name in COPIED:
        if (source / name).is_file() and not (target / name).exists():
            shutil.copyfile(source / name, target / name)
    if (source / "modules.json").is_file():
        write_pooling(target, read_pooling(source), dim)


def gguf_precision(config: CompressConfig) -> Precision:
    """GGUF's name of the config's format."""
    if config.bits == 16:
        return "bf16"
    if config.bits == 8:
        return "q8_0"
    return "q4_0" if config.symmetric else "q4_1"


def speed(module: LanguageModel, tokenizer: Tokenizer) -> dict[str, float]:
    """Tokens per second of one sequence, `prefill` and greedy `decode`, in bfloat16, after a turn to warm up.

    In bfloat16 for all, so that what is compared is the weights and not the precision of the rest. An encoder is not
    measured.
    """
    if not module.config.left_to_right:
        module.to(torch.bfloat16)
        return {}
    engine = Engine(module.to(torch.bfloat16), tokenizer, max_batch=1)
    longest = module.config.max_positions - 1
    prompt, length = [tokenizer.eot_id] * min(PREFILLED_TOKENS, longest - 1), min(DECODED_TOKENS, longest)
    found = {}
    for name, ids, count in (("prefill", prompt, 1), ("decode", prompt[:1], length)):
        request = Request(ids, SamplingParams(max_tokens=count, ignore_eos=True))
        for _ in range(2):
            engine.clear_cache()  # or the prompt would be found in the cache
            started = time.perf_counter()
            engine.generate([request])
        tokens = len(ids) if name == "prefill" else count
        found[name] = round(tokens / (time.perf_counter() - started), 2)
    return found


def weight_bytes(directory: Path) -> int:
    """Bytes of a model directory's weights on disk."""
    files = (*directory.glob("*.safetensors"), *directory.glob("*.gguf"))
    return sum(path.stat().st_size for path in files if path.name != DRAFT_HEAD)


def memory_bytes(module: LanguageModel) -> int:
    """Bytes of a model's weights in memory."""
    return sum(tensor.numel() * tensor.element_size() for tensor in (*module.parameters(), *module.buffers()))


def _report(config: CompressConfig, source: Path, result: Path, layers: list[LayerReport]) -> dict[str, Any]:
    before, after = weight_bytes(source), weight_bytes(result)
    weights = [layer.shape[0] * layer.shape[1] for layer in layers]
    report: dict[str, Any] = {
        "bits": sum(layer.bits * n for layer, n in zip(layers, weights, strict=True)) / sum(weights),
        "bytes": after,
        "original_bytes": before,
        "ratio": before / after,
        "compressed_layers": len(layers),
    }
    if config.prune is not None:
        report["zeros"] = sum(layer.zeros * n for layer, n in zip(layers, weights, strict=True)) / sum(weights)
    return report


def _card(source: Path, config: CompressConfig, report: dict[str, Any]) -> str:
    """The original's card with a section on the compression."""
    card = source / "README.md"
    before = card.read_text(encoding="utf-8").rstrip() + "\n\n" if card.is_file() else "# Compressed model\n\n"
    lines = ["## Compression", "", *_what_was_done(config, report)]
    lines.append(
        f"Size: {human_bytes(report['original_bytes'])} -> {human_bytes(report['bytes'])} ({report['ratio']:.2f}x)."
    )
    if "kl_bits_per_token" in report:
        kl, same = report["kl_bits_per_token"], report["same_next_token"]
        lines.append(
            f"Against the original on held-out text: KL {kl['value']:.4f} bits per token "
            f"[{kl['low']:.4f}, {kl['high']:.4f}], same next token {same['value']:.1%}."
        )
    return before + "\n".join(lines) + "\n"


def _what_was_done(config: CompressConfig, report: dict[str, Any]) -> list[str]:
    lines = []
    if config.shrink is not None:
        removed = {name: value for name, value in config.shrink.model_dump().items() if value}
        lines.append(f"Removed: {', '.join(f'{name} {value}' for name, value in removed.items())}.")
    if config.prune is not None:
        lines.append(f"{report['zeros']:.0%} of the weights set to zero by {config.prune.method}.")
    if config.bits < 16:
        group = f"groups of {config.group_size} weights" if config.group_size else "one group per output"
        inputs = "inputs in int8" if config.int8_inputs else "inputs are not quantized"
        bits = f"{config.numbers}{config.bits}" if config.numbers == "int" else config.numbers
        lines.append(
            f"Weights of {report['compressed_layers']} linear layers in {bits}, {group}, codes by {config.method} "
            f"({report['bits']:.2f} bits a weight); {inputs}."
        )
    return lines
