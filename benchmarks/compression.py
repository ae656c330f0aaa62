"""Claims about compressed models, one command for each; all on models trained in full precision.

    python benchmarks/compression.py quality MODEL --tokens TOKENS   # loss for size, beside llama.cpp's quantizers
    python benchmarks/compression.py memory                          # peak memory of quantizing a model block by block
    python benchmarks/compression.py distill TEACHER --tokens TOKENS # a four times smaller student, taught and alone
    python benchmarks/compression.py policy TEACHER STUDENT          # answers of the student's own or of the teacher
    python benchmarks/compression.py heads MODEL --tokens TOKENS     # decoding with and without the model's draft head

quality: int8 must lose less than 0.1% of the bits per byte; int4 fewer than llama.cpp's Q4_0, and no more than its
Q4_K_M at equal size. llama.cpp's numbers come from its own quantizers (the library inside the xllamacpp wheel, or
--library), with the mixture of formats that its `llama-quantize` chooses, and are read back by the `gguf` package.
Differences are to the original on the same documents, with 95% intervals from resampling documents.
"""

from __future__ import annotations

import argparse
import copy
import ctypes
import importlib.util
import json
import math
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch

from foundling.compression.apply import compress_module
from foundling.compression.calibration import calibration_rows
from foundling.compression.compress import gguf_precision, memory_bytes
from foundling.compression.config import CompressConfig
from foundling.compression.distill import build_distilled
from foundling.compression.distill_config import DistillConfig
from foundling.core.artifacts import Artifact, Draft
from foundling.core.config import parse
from foundling.core.errors import FoundlingError
from foundling.core.hardware import describe
from foundling.core.stages import Inputs
from foundling.core.units import human_bytes
from foundling.evaluation.statistics import bootstrap_ratio, mcnemar_mid_p
from foundling.evaluation.tasks.expressions.grading import grade
from foundling.evaluation.tasks.expressions.items import generate, messages
from foundling.inference.engine import Engine, Request, SamplingParams
from foundling.inference.speculative import HeadDraft
from foundling.models.build import build
from foundling.models.checkpoint import Parts, load_module, save_module
from foundling.models.draft_head import load_draft_head
from foundling.models.gguf_file import load_gguf, save_gguf
from foundling.models.gguf_header import Header
from foundling.models.language_model import LanguageModel
from foundling.models.presets import preset
from foundling.tokenization.chat import render
from foundling.tokenization.tokenizer import Tokenizer
from foundling.training.config import PretrainConfig
from foundling.training.pretrain import build_pretrained
from foundling.training.token_files import TokenSplit

KINDS = gguf.GGMLQuantizationType
OURS: dict[str, dict[str, Any]] = {
    "bf16": {"bits": 16},
    "int8 in groups of 32": {"bits": 8},
    "int8 for each output": {"bits": 8, "group_size": None},
    "fp8": {"numbers": "fp8"},
    "nf4": {"numbers": "nf4"},
    "int4 nearest": {"bits": 4, "method": "nearest"},
    "int4 search": {"bits": 4},
    "int4 awq": {"bits": 4, "method": "awq"},
    "int4 gptq": {"bits": 4, "method": "gptq"},
    "int4 gptq, groups of 128": {"bits": 4, "method": "gptq", "group_size": 128},
    "2:4 sparsegpt": {"bits": 16, "prune": {"pattern": "2:4"}},
    "50% sparsegpt": {"bits": 16, "prune": {}},
    "50% wanda": {"bits": 16, "prune": {"method": "wanda"}},
    "50% magnitude": {"bits": 16, "prune": {"method": "magnitude"}},
}
GGUF: dict[str, dict[str, Any]] = {
    "gguf q8_0": {"bits": 8, "format": "gguf"},
    "gguf q4_0 by gptq": {"bits": 4, "method": "gptq", "format": "gguf"},
}


# --- loss for size ----------------------------------------------------------------------------------------------------


def per_document(module: LanguageModel, documents: Sequence[Sequence[int]], context: int = 512) -> list[float]:
    """Bits of each document, whose tokens are predicted from at most `context` before them."""
    bits = []
    with torch.inference_mode():
        for ids in documents:
            total = 0.0
            for start in range(0, len(ids) - 1, context):
                row = torch.tensor([ids[start : start + context + 1]])
                logprobs = torch.log_softmax(module(row[:, :-1]).float(), -1)
                total -= float(logprobs.gather(-1, row[:, 1:, None]).sum())
            bits.append(total / math.log(2))
    return bits


def held_out(tokens: Path, wanted: int) -> tuple[list[list[int]], list[float]]:
    """Whole validation documents, about `wanted` tokens, and the bytes of each."""
    split = TokenSplit(tokens, "validation")
    documents: list[list[int]] = []
    for index in range(len(split.bytes)):
        if sum(map(len, documents)) < wanted:
            documents.append(split.document(index).tolist())
    return documents, [float(count) for count in split.bytes[: len(documents)]]


def quality(chosen: argparse.Namespace) -> None:
    """A line for each way of compressing: size, bits per byte, and what it lost."""
    original = load_module(chosen.model)
    documents, sizes = held_out(chosen.tokens, chosen.held_out)
    train = TokenSplit(chosen.tokens, "train")
    taken = [train.document(i).tolist() for i in range(0, min(600, len(train.bytes)), 3)]
    rows = calibration_rows(taken, chosen.calibration, 256)
    whole = per_document(original, documents)
    print(
        f"{original.config.n_parameters():,} parameters; {len(documents)} held-out documents, {sum(sizes):,.0f} bytes"
    )
    print(f"{'':30} {'weights':>9}  bits per byte, lost against the original [95%]")
    print(
        f"{'original (float32)':30} {human_bytes(memory_bytes(original)):>9}  {sum(whole) / sum(sizes):.4f}", flush=True
    )

    def wanted(name: str) -> bool:
        return not chosen.ways or any(way in name for way in chosen.ways)

    def line(name: str, module: LanguageModel, size: int) -> float:
        bits = per_document(module, documents)
        lost = [100 * (after - before) for after, before in zip(bits, whole, strict=True)]
        interval = bootstrap_ratio(lost, whole, seed=("quality",))
        shown = f"{interval.value:+.3f}% [{interval.low:+.3f}, {interval.high:+.3f}]"
        print(f"{name:30} {human_bytes(size):>9}  {sum(bits) / sum(sizes):.4f}  {shown}", flush=True)
        return sum(bits)

    for name, fields in ((n, f) for n, f in OURS.items() if wanted(n)):
        config = parse(CompressConfig, fields, name)
        module = copy.deepcopy(original)
        try:
            compress_module(module, config, rows if config.needs_text else None)
        except FoundlingError as error:  # a group size that does not fit this model's shapes
            print(f"{name:30} {error}")
            continue
        size = memory_bytes(module)
        line(name, module.float(), size)
    peers = {}
    for name in (n for n in ("Q8_0", "Q4_0", "Q4_K_M") if wanted(f"llama.cpp {n}")):
        module, size = by_llama_cpp(original, name, chosen.library)
        peers[name] = size
        line(f"llama.cpp {name}", module, size)
    ways = dict(GGUF)
    if "Q4_K_M" in peers:
        ways["gguf mixed, size of Q4_K_M"] = {**GGUF["gguf q4_0 by gptq"], "max_bytes": peers["Q4_K_M"]}
    for name, fields in ((n, f) for n, f in ways.items() if wanted(n)):
        config = parse(CompressConfig, fields, name)
        module = copy.deepcopy(original)
        compress_module(module, config, rows if config.needs_text else None)
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / "model.gguf"
            save_gguf(module, chosen.model, path, gguf_precision(config))
            size = sum(place.n_bytes for place in Header(path).tensors.values())
            line(name, load_gguf(path), size)
    print(describe())


def by_llama_cpp(original: LanguageModel, name: str, library: Path | None) -> tuple[LanguageModel, int]:
    """The model rounded by llama.cpp's own functions, and the bytes of its file's tensors."""
    quantize = ctypes.CDLL(str(library or _library())).ggml_quantize_chunk
    quantize.restype = ctypes.c_size_t
    quantize.argtypes = [ctypes.c_int, *[ctypes.c_void_p] * 2, *[ctypes.c_int64] * 3, ctypes.c_void_p]
    module, total = copy.deepcopy(original), 0
    for tensor_name, parameter in module.named_parameters():
        if parameter.dim() < 2:
            total += 4 * parameter.numel()
            continue
        kind = _kind(tensor_name, name, module.config.n_layers, module.config.tie_embeddings)
        if parameter.shape[1] % gguf.GGML_QUANT_SIZES[kind][0]:
            kind = KINDS.Q8_0
        source = np.ascontiguousarray(parameter.detach().numpy())
        rows, columns = source.shape
        block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
        packed = np.zeros((rows, columns // block * block_bytes), dtype=np.uint8)
        quantize(int(kind), source.ctypes.data, packed.ctypes.data, 0, rows, columns, None)
        parameter.data = torch.from_numpy(np.array(gguf.dequantize(packed, kind)))
        total += packed.nbytes
    return module, total


def _kind(tensor: str, name: str, layers: int, tied: bool) -> gguf.GGMLQuantizationType:
    """Which format `llama-quantize` gives a tensor (llama_tensor_get_type of llama.cpp)."""
    if name == "Q8_0":
        return KINDS.Q8_0
    if tensor.startswith("output") or (tied and tensor.startswith("embedding")):
        return KINDS.Q6_K
    if name == "Q4_0":
        return KINDS.Q4_0
    if tensor.endswith(("v_proj.weight", "down.weight")):
        i = int(tensor.split(".")[1])
        more = i < layers // 8 or i >= 7 * layers // 8 or (i - layers // 8) % 3 == 2
        return KINDS.Q6_K if more else KINDS.Q4_K
    return KINDS.Q4_K


def _library() -> Path:
    found = importlib.util.find_spec("xllamacpp")
    if found is None or found.origin is None:
        sys.exit("llama.cpp is needed: pip install --no-deps xllamacpp, or --library with its shared library")
    return next(Path(found.origin).parent.glob("*.so"))


# --- memory -----------------------------------------------------------------------------------------------------------


def memory(chosen: argparse.Namespace) -> None:
    """Peak resident memory beyond an idle process, beside the bf16 size and one block in float32."""
    if chosen.child:
        parts = Parts(chosen.child)
        config = parse(CompressConfig, json.loads(chosen.fields), "memory")
        rows = torch.randint(0, 1000, (16, 128), generator=torch.Generator().manual_seed(0))
        before = _peak()
        compress_module(parts.module, config, rows if config.needs_text else None, parts.read)
        save_module(parts.module, Path(chosen.child) / "compressed")
        print(_peak() - before)
        return
    with tempfile.TemporaryDirectory() as scratch:
        module = build(preset(chosen.preset), 0).to(torch.bfloat16)
        save_module(module, scratch)
        size, block = memory_bytes(module), 4 * sum(p.numel() for p in module.blocks[0].parameters())
        print(f"{chosen.preset}: {human_bytes(size)} in bf16; one block in float32: {human_bytes(block)}")
        del module
        for fields in ({"bits": 8}, {"bits": 4}, {"bits": 4, "method": "gptq"}):
            command = [sys.executable, __file__, "memory", "--child", scratch, "--fields", json.dumps(fields)]
            peak = int(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.split()[-1])
            verdict = "below" if peak < size + block else "ABOVE"
            print(f"{fields!s:40} peak {human_bytes(peak):>9} more than at start: {verdict} bf16 size + one block")
    print(describe())


def _peak() -> int:
    """This program's largest resident size; ru_maxrss would be at least that of the process which started it."""
    status = Path("/proc/self/status").read_text()
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) * 1024


# --- distillation -----------------------------------------------------------------------------------------------------


def distill(chosen: argparse.Namespace) -> None:
    """Two equal students, equal data and steps: one taught by the teacher's predictions, one by the text alone."""
    inputs = {"tokens": Artifact.outside(chosen.tokens, "tokens")}
    shared = {"preset": chosen.student, "steps": chosen.steps, "batch_size": 16, "context": 256, "seed": 0}
    shared |= {"validation_tokens": 30_000, "learning_rate": 0.015, "matrix_learning_rate": 0.02}
    documents, sizes = held_out(chosen.tokens, chosen.held_out)
    scores = {"teacher": per_document(load_module(chosen.model), documents)}
    with tempfile.TemporaryDirectory() as scratch:
        alone, taught = _draft(Path(scratch) / "alone"), _draft(Path(scratch) / "taught")
        build_pretrained(parse(PretrainConfig, shared, "alone"), Inputs(inputs), alone)
        teacher = {"teacher": Artifact.outside(chosen.model, "model")}
        build_distilled(
            parse(DistillConfig, shared | {"own_text": chosen.own_text}, "taught"), Inputs(inputs | teacher), taught
        )
        for name, draft in (("alone", alone), ("taught", taught)):
            module = load_module(draft.path)
            print(f"{name}: {module.config.n_parameters():,} parameters, {draft.timings['training_seconds']:.0f} s")
            scores[name] = per_document(module, documents)
        if chosen.keep:
            save_module(load_module(taught.path), chosen.keep)
            Tokenizer.load(taught.path).save(chosen.keep)
    for name, bits in scores.items():
        print(f"{name:10} {sum(bits) / sum(sizes):.4f} bits per byte on {len(documents)} held-out documents")
    gained = [100 * (a - b) for a, b in zip(scores["alone"], scores["taught"], strict=True)]
    interval = bootstrap_ratio(gained, scores["alone"], seed=("distill",))
    print(f"taught below alone by {interval.value:.2f}% [{interval.low:.2f}, {interval.high:.2f}]")
    print(describe())


def policy(chosen: argparse.Namespace) -> None:
    """The same student taught on the teacher's answers and on its own, for equal steps; then the graded task."""
    inputs = {name: Artifact.outside(getattr(chosen, name), "model") for name in ("teacher", "base")}
    shared = {"prompts": ["expressions"], "steps": chosen.steps, "batch_size": 32, "context": 128, "examples": 1500}
    shared |= {"learning_rate": 0.003, "matrix_learning_rate": 0.005}
    ways = {
        "off-policy": {"on_policy": 0.0},
        "on-policy": {"on_policy": 1.0, "divergence": "reverse"},
        "sequence-level": {"own_text": 1.0},
    }
    right = {"teacher": _graded(chosen.teacher, chosen.items), "student before": _graded(chosen.base, chosen.items)}
    with tempfile.TemporaryDirectory() as scratch:
        for name, fields in ways.items():
            draft = _draft(Path(scratch) / name)
            build_distilled(parse(DistillConfig, shared | fields, name), Inputs(inputs), draft)
            right[name] = _graded(draft.path, chosen.items)
            print(f"{name}: {draft.timings['training_seconds']:.0f} s", flush=True)
    for name, passed in right.items():
        print(f"{name:16} {sum(passed) / len(passed):.3f} of {len(passed)} held-out items")
    pairs = list(zip(right["on-policy"], right["off-policy"], strict=True))
    own, other = sum(a and not b for a, b in pairs), sum(b and not a for a, b in pairs)
    p = mcnemar_mid_p(own, other)
    print(f"on-policy alone is right on {own} items, off-policy alone on {other}: p = {p:.3f} (McNemar, mid-p)")
    print(describe())


def heads(chosen: argparse.Namespace) -> None:
    """Greedy continuations of held-out documents, one by one, by a model with a draft head and without it in turns."""
    documents, _ = held_out(chosen.tokens, 20_000)
    requests = [
        Request(ids[:48], SamplingParams(max_tokens=160, temperature=0.0, ignore_eos=True)) for ids in documents
    ]
    engines = {}
    for name, head in (("alone", None), ("with its draft head", load_draft_head(chosen.model))):
        module, tokenizer = load_module(chosen.model, torch.bfloat16), Tokenizer.load(chosen.model)
        engines[name] = Engine(module, tokenizer, max_batch=1, speculate=None if head is None else HeadDraft(head))
    said: dict[str, list[list[int]]] = {}
    rates: dict[str, list[float]] = {name: [] for name in engines}
    for _ in range(chosen.rounds):
        for name, engine in engines.items():
            engine.clear_cache()
            if engine._stepper.proposer is not None:  # always guess: whether it pays is what is asked
                engine._stepper.pace.rates = {True: 2.0, False: 1.0}
                engine._stepper.pace._step = 2 * engine._stepper.pace.TRIAL
            start = time.perf_counter()
            said[name] = [engine.generate([request])[0].tokens for request in requests]
            rates[name].append(sum(map(len, said[name])) / (time.perf_counter() - start))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    for name, rate in medians.items():
        print(f"{name:20} {rate:8.0f} tokens/s")
    stats, alone = engines["with its draft head"].stats(), medians["alone"]
    print(f"{stats.accepted_tokens / max(stats.drafted_tokens, 1):.0%} of {stats.drafted_tokens:,} guesses accepted")
    same = said["alone"] == said["with its draft head"]
    print(f"{medians['with its draft head'] / alone:.2f} times as fast; the same tokens: {same}")
    print(describe())


def _graded(path: Path, count: int) -> list[bool]:
    module, tokenizer = load_module(path), Tokenizer.load(path)
    items = generate("compositions", count // 2) + generate("phrasings", count - count // 2)
    prompts = [render(tokenizer, messages(item), add_generation_prompt=True) for item in items]
    params = SamplingParams(max_tokens=48, temperature=0.0, stop_ids=prompts[0].stop_ids)
    done = Engine(module, tokenizer, max_batch=64).generate([Request(one.ids, params) for one in prompts])
    return [outcome.passed for outcome in grade(items, [completion.text for completion in done])]


def _draft(where: Path) -> Draft:
    draft = Draft(where / "files", where / "scratch", "0" * 16)
    for path in (draft.path, draft.scratch):
        path.mkdir(parents=True)
    return draft


def main() -> None:
    """Run one of the benchmarks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ways = parser.add_subparsers(required=True)
    one = ways.add_parser("quality")
    one.set_defaults(run=quality)
    one.add_argument("model", type=Path)
    one.add_argument("--library", type=Path, help="llama.cpp's shared library")
    one.add_argument("--ways", nargs="*", default=(), help="parts of the names of those to measure (default: all)")
    one.add_argument("--calibration", type=int, default=48, help="rows of 256 tokens")
    two = ways.add_parser("distill")
    two.set_defaults(run=distill)
    two.add_argument("model", type=Path)
    two.add_argument("--student", default="foundling-1m")
    two.add_argument("--steps", type=int, default=300)
    two.add_argument("--own-text", type=float, default=0.1)
    two.add_argument("--keep", type=Path, help="where to keep the taught student")
    for each in (one, two):
        each.add_argument("--tokens", type=Path, required=True)
        each.add_argument("--held-out", type=int, default=40_000, help="tokens")
    three = ways.add_parser("policy")
    three.set_defaults(run=policy)
    three.add_argument("teacher", type=Path)
    three.add_argument("base", type=Path)
    three.add_argument("--steps", type=int, default=60)
    three.add_argument("--items", type=int, default=300)
    five = ways.add_parser("heads")
    five.set_defaults(run=heads)
    five.add_argument("model", type=Path)
    five.add_argument("--tokens", type=Path, required=True)
    five.add_argument("--rounds", type=int, default=3)
    four = ways.add_parser("memory")
    four.set_defaults(run=memory)
    four.add_argument("--preset", default="smollm2-135m")
    four.add_argument("--child", default="")
    four.add_argument("--fields", default="")
    chosen = parser.parse_args()
    chosen.run(chosen)


if __name__ == "__main__":
    main()
