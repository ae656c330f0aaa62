"""Claim: compressed models trade size, speed and fidelity as stated: one line per scheme for a given model.

    python benchmarks/compression.py runs/artifacts/model/KEY --text held_out.txt

Speed is batch-1 greedy decoding in bfloat16, beside the limit that memory bandwidth sets for the bytes of the weights.
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path

import torch

from foundling.compression.compress import compress_module, decode_speed
from foundling.compression.config import CompressConfig
from foundling.compression.fidelity import prediction_changes
from foundling.core.errors import FoundlingError
from foundling.core.hardware import describe, measure
from foundling.core.units import human_bytes
from foundling.models.checkpoint import load_module
from foundling.models.language_model import LanguageModel
from foundling.tokenization.tokenizer import Tokenizer

SCHEMES = [
    {"bits": 8, "group_size": None, "method": "nearest"},
    {"bits": 8, "group_size": 32, "method": "search"},
    {"bits": 4, "group_size": 128, "method": "search"},
    {"bits": 4, "group_size": 32, "method": "nearest"},
    {"bits": 4, "group_size": 32, "method": "search"},
]


def weight_bytes(module: LanguageModel) -> int:
    """Bytes of all parameters and buffers, as they lie in memory."""
    return sum(t.numel() * t.element_size() for t in (*module.parameters(), *module.buffers()))


def documents(path: Path, tokenizer: Tokenizer, longest: int) -> list[list[int]]:
    """The text in pieces that fit the model, at most 32."""
    ids = tokenizer.encode(path.read_text(encoding="utf-8"))
    return [ids[start : start + longest] for start in range(0, len(ids), longest)][:32]


def main() -> None:
    """Print a line per scheme."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--text", type=Path, default=Path(torch.__file__).with_name("functional.py"))
    chosen = parser.parse_args()
    original, tokenizer = load_module(chosen.model), Tokenizer.load(chosen.model)
    texts = documents(chosen.text, tokenizer, min(512, original.config.max_positions))
    bandwidth = measure().bandwidth
    report("original", original, tokenizer, "", bandwidth)
    for scheme in SCHEMES:
        config = CompressConfig.model_validate(scheme)
        module = copy.deepcopy(original)
        try:
            compress_module(module, config)
        except FoundlingError as error:  # a group size that does not fit this model's shapes
            print(f"{scheme}: {error}")
            continue
        changes = prediction_changes(original, module, texts)
        kl, same = changes["kl_bits_per_token"], changes["same_next_token"]
        note = f"KL {kl.value:.5f} [{kl.low:.5f}, {kl.high:.5f}] bits/token, same next token {same.value:.1%}"
        group = config.group_size or "row"
        report(f"int{config.bits} group {group} {config.method}", module, tokenizer, note, bandwidth)
    print(describe())


def report(name: str, module: LanguageModel, tokenizer: Tokenizer, note: str, bandwidth: float) -> None:
    """Size, speed and share of the bandwidth limit."""
    half = copy.deepcopy(module).to(torch.bfloat16)
    size, speed = weight_bytes(half), decode_speed(half, tokenizer)
    limit = bandwidth / size
    share = f"({speed / limit:.0%} of the limit)"
    print(f"{name:28s} {human_bytes(size):>8s} {speed:8.1f} tokens/s {share} {note}", flush=True)


if __name__ == "__main__":
    main()
