"""What the engine refuses before it computes anything, and how much room it takes by default."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from foundling.core.errors import FoundlingError
from foundling.models.language_model import LanguageModel

DEFAULT_CACHE_BYTES = 1 << 30


class PromptTooLong(FoundlingError):
    """The prompt leaves no room for a single new token."""


def check_prompt(tokens: Sequence[int], vocab_size: int, longest: int) -> None:
    """Refuse an empty prompt, an unknown token, and a prompt that leaves no room for a new token.

    Args:
        longest: tokens that a sequence may have, the new one included.
    """
    if not tokens:
        raise FoundlingError("the prompt is empty", "expected at least one token")
    check_tokens(tokens, vocab_size)
    check_length(len(tokens), longest)


def check_tokens(tokens: Sequence[int], vocab_size: int) -> None:
    """Refuse ids that the model has no embedding for."""
    low, high = min(tokens), max(tokens)
    if low < 0 or high >= vocab_size:
        wrong = low if low < 0 else high
        raise FoundlingError(f"the prompt holds token {wrong}", f"the model knows tokens 0 to {vocab_size - 1}")


def check_length(length: int, longest: int) -> None:
    """Refuse `length` tokens if a sequence, with the token that follows, may only have `longest`."""
    if length >= longest:
        raise PromptTooLong(
            f"the prompt has {length} tokens",
            f"the context and the cache leave room for {longest}, the answer included",
            "shorten it, or give the engine a larger cache if the model's context allows",
        )


def default_room(module: LanguageModel, max_batch: int, dtype: torch.dtype | None) -> int:
    """Tokens of cache for max_batch full contexts, at most 1 GiB, but at least one full context."""
    value = torch.empty(0, dtype=dtype or next(module.parameters()).dtype).element_size()
    per_token = max(1, math.ceil(module.config.kv_bytes_per_token(value)))
    full = module.config.max_positions
    return max(full, min(max_batch * full, DEFAULT_CACHE_BYTES // per_token))
