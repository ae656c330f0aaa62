"""From hidden states to one vector per text, as a sentence-transformers directory says."""

from __future__ import annotations

from pathlib import Path

import torch.nn.functional as F
from torch import Tensor

from foundling.core.config import Config, option
from foundling.core.errors import FoundlingError
from foundling.models.families.translate import read_json


class PoolingConfig(Config):
    """How an encoder's hidden states become an embedding."""

    first: bool = option(False, "the first token's state (CLS) instead of the mean over tokens")
    normalize: bool = option(True, "scale to unit length")
    max_tokens: int | None = option(None, "longer texts are cut to this many tokens")


def read_pooling(directory: Path) -> PoolingConfig:
    """The pooling of a directory: the mean, normalised, where no modules.json says otherwise.

    Raises:
        FoundlingError: for a pooling that is neither the mean nor the first token.
    """
    modules = directory / "modules.json"
    if not modules.is_file():
        return PoolingConfig()
    pooling = read_json(directory / "1_Pooling" / "config.json")
    modes = {name for name, on in pooling.items() if name.startswith("pooling_mode") and on}
    if modes not in ({"pooling_mode_mean_tokens"}, {"pooling_mode_cls_token"}):
        raise FoundlingError(f"{directory}: pooling {sorted(modes)} is not supported", "supported: mean or CLS token")
    settings = directory / "sentence_bert_config.json"
    return PoolingConfig(
        first=modes == {"pooling_mode_cls_token"},
        normalize="models.Normalize" in modules.read_text(encoding="utf-8"),
        max_tokens=read_json(settings).get("max_seq_length") if settings.is_file() else None,
    )


def pool(hidden: Tensor, real: Tensor, config: PoolingConfig) -> Tensor:
    """hidden (rows, time, dim), real (rows, time) bool: which tokens count -> embeddings (rows, dim)."""
    if config.first:
        pooled = hidden[:, 0]
    else:
        weights = real.unsqueeze(-1).to(hidden.dtype)
        pooled = (hidden * weights).sum(1) / weights.sum(1).clamp_min(1e-9)
    return F.normalize(pooled, dim=-1) if config.normalize else pooled
