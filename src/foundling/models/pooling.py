"""From hidden states to one vector per text, as a sentence-transformers directory says."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from foundling.core.config import Config, option
from foundling.core.errors import FoundlingError
from foundling.models.families.translate import read_json

PoolingMode = Literal["mean", "cls", "lasttoken"]  # by the names of sentence-transformers
_MODES: dict[str, PoolingMode] = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "lasttoken",
}
UNLIMITED = 10**9  # transformers writes 10^30 where there is no longest text
_CONFIG, _LENGTH = "1_Pooling/config.json", "sentence_bert_config.json"


class PoolingConfig(Config):
    """How hidden states become an embedding."""

    mode: PoolingMode = option("mean", "the mean over a text's tokens, its first token's state, or its last's")
    normalize: bool = option(True, "scale to unit length")
    max_tokens: int | None = option(None, "longer texts are cut to this many tokens")


def read_pooling(directory: Path) -> PoolingConfig:
    """The pooling of a directory: the mean, normalised, where no modules.json says otherwise.

    Both forms are read: that of sentence-transformers up to 5, which is written here and which all read, and that of 6.

    Raises:
        FoundlingError: for a pooling that is none of ours.
    """
    modules = directory / "modules.json"
    if not modules.is_file():
        return PoolingConfig()
    text = modules.read_text(encoding="utf-8")
    kinds = {name.rpartition(".")[2] for name in re.findall(r'"type":\s*"([^"]+)"', text)}
    if more := sorted(kinds - {"Transformer", "Pooling", "Normalize"}):
        raise FoundlingError(f"{directory}: the module {more[0]} is not supported", "supported: pooling and norm alone")
    pooling = read_json(directory / _CONFIG)
    modes = {_MODES.get(name, name) for name, on in pooling.items() if name.startswith("pooling_mode_") and on}
    modes |= {str(pooling["pooling_mode"])} if "pooling_mode" in pooling else set()
    if len(modes) != 1 or not modes <= set(_MODES.values()):
        known = "supported: the mean, the first (CLS) or the last token"
        raise FoundlingError(f"{directory}: pooling {', '.join(sorted(modes))} is not supported", known)
    lengths = [(_LENGTH, "max_seq_length"), ("tokenizer_config.json", "model_max_length")]
    longest = (read_json(directory / name).get(key) for name, key in lengths if (directory / name).is_file())
    return PoolingConfig.model_validate(
        {
            "mode": modes.pop(),
            "normalize": "Normalize" in kinds,
            "max_tokens": next((n for n in longest if n is not None and n < UNLIMITED), None),
        }
    )


def write_pooling(directory: Path, config: PoolingConfig, dim: int) -> None:
    """Make a model's directory one that sentence-transformers reads: its modules, the pooling and the longest text."""
    parts = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")][: 2 + config.normalize]
    files: dict[str, Any] = {
        "modules.json": [
            {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for number, (path, kind) in enumerate(parts)
        ],
        _CONFIG: {"word_embedding_dimension": dim} | {name: mode == config.mode for name, mode in _MODES.items()},
        _LENGTH: {"max_seq_length": config.max_tokens, "do_lower_case": False},
    }
    for path, _ in parts[1:]:
        (directory / path).mkdir(exist_ok=True)  # the last one is empty
    for name, content in files.items():
        (directory / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def pool(hidden: Tensor, real: Tensor, config: PoolingConfig) -> Tensor:
    """hidden (rows, time, dim), real (rows, time) bool: a text's tokens, then padding -> embeddings (rows, dim)."""
    if config.mode == "mean":
        weights = real.unsqueeze(-1).to(hidden.dtype)
        pooled = (hidden * weights).sum(1) / weights.sum(1).clamp_min(1e-9)
    else:
        at = torch.zeros_like(real[:, 0], dtype=torch.int64) if config.mode == "cls" else real.sum(1).clamp(min=1) - 1
        pooled = hidden[torch.arange(len(hidden), device=hidden.device), at]
    return F.normalize(pooled, dim=-1) if config.normalize else pooled
