"""Vocabulary surgery: new tokens for a domain or a language in an existing byte-level BPE, and where to start them.

Training goes on where it stopped: new merges come after all old ones, so that a text without them is cut as before.
"""

from __future__ import annotations

import heapq
import json
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise

import numpy as np
import tokenizers
from numpy.typing import NDArray

from foundling.core.errors import FoundlingError
from foundling.tokenization.tokenizer import Tokenizer

Pair = tuple[str, str]


def extend(tokenizer: Tokenizer, texts: Iterable[str], count: int) -> tuple[Tokenizer, list[list[int]]]:
    """Add up to `count` merges learned on `texts`.

    Returns:
        (the larger tokenizer, for each new token the old ids that it is made of). The new ids follow the old ones.

    Raises:
        FoundlingError: the tokenizer is no byte-level BPE.
    """
    description = json.loads(tokenizer.fast.to_str())
    model = description["model"]
    if model["type"] != "BPE" or not tokenizer.is_byte_level:
        raise FoundlingError(f"vocabulary surgery needs a byte-level BPE, not {model['type']}")
    merges = learn_merges(_words(tokenizer, texts), count)
    next_id = tokenizer.vocab_size
    vocabulary: dict[str, int] = model["vocab"]
    fresh: list[str] = []
    for left, right in merges:
        if left + right not in vocabulary:
            vocabulary[left + right] = next_id + len(fresh)
            fresh.append(left + right)
    model["merges"] += [[left, right] if _as_lists(model["merges"]) else f"{left} {right}" for left, right in merges]
    larger = tokenizers.Tokenizer.from_str(json.dumps(description))
    old = tokenizer.fast.model
    return Tokenizer(larger, tokenizer.config), [[t.id for t in old.tokenize(token)] for token in fresh]


def learn_merges(words: Counter[tuple[str, ...]], count: int) -> list[Pair]:
    """The next `count` merges of byte-pair encoding (Sennrich et al. 2016) on words already cut into tokens.

    Of equally frequent pairs the smaller in text order goes first, so the result depends on nothing else.
    """
    parts = [list(word) for word in words]
    times = list(words.values())
    counts: Counter[Pair] = Counter()
    where: dict[Pair, set[int]] = {}
    for number, word in enumerate(parts):
        _count(word, times[number], number, counts, where)
    queue = [(-n, pair) for pair, n in counts.items()]  # entries whose count has changed since are passed over
    heapq.heapify(queue)
    merges: list[Pair] = []
    while len(merges) < count and queue:
        negative, best = heapq.heappop(queue)
        if counts[best] != -negative:
            continue
        if counts[best] < 2:
            break
        merges.append(best)
        changed: set[Pair] = set()
        for number in sorted(where[best]):
            changed |= _count(parts[number], -times[number], number, counts, where)
            parts[number] = _merge(parts[number], best)
            changed |= _count(parts[number], times[number], number, counts, where)
        for pair in changed - {best}:
            heapq.heappush(queue, (-counts[pair], pair))
        del counts[best]
    return merges


def initial_rows(weight: NDArray[np.floating], made_of: list[list[int]]) -> NDArray[np.floating]:
    """(new, dim) rows for an embedding or an output head: the mean of the rows that each new token replaces.

    The new token then means at first what its pieces meant together (Hewitt 2021; Gee et al. 2022).

    Args:
        weight: (old vocabulary, dim).
        made_of: from `extend`.
    """
    return np.stack([weight[ids].mean(axis=0) for ids in made_of]) if made_of else weight[:0]


def _words(tokenizer: Tokenizer, texts: Iterable[str]) -> Counter[tuple[str, ...]]:
    """How often each word occurs, in pieces as the tokenizer cuts it now."""
    counted: Counter[str] = Counter()
    for text in texts:
        counted.update(word for word, _ in tokenizer.fast.pre_tokenizer.pre_tokenize_str(text))
    model = tokenizer.fast.model
    cut = {tuple(token.value for token in model.tokenize(word)): n for word, n in sorted(counted.items())}
    return Counter(cut)


def _count(word: list[str], times: int, number: int, counts: Counter[Pair], where: dict[Pair, set[int]]) -> set[Pair]:
    """Add a word's pairs `times` times; returns them."""
    pairs = list(pairwise(word))
    for pair in pairs:
        counts[pair] += times
        where.setdefault(pair, set()).add(number)
    return set(pairs)


def _merge(word: list[str], pair: Pair) -> list[str]:
    merged, i = [], 0
    while i < len(word):
        if i + 1 < len(word) and (word[i], word[i + 1]) == pair:
            merged.append(word[i] + word[i + 1])
            i += 2
        else:
            merged.append(word[i])
            i += 1
    return merged


def _as_lists(merges: list[object]) -> bool:
    return bool(merges) and isinstance(merges[0], list)
