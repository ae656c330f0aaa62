"""What a model's bits per byte must be compared with: general compressors, and an n-gram model on the same text."""

from __future__ import annotations

import gzip
import lzma
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foundling.core import progress

Bytes = NDArray[np.uint8]
Codes = NDArray[np.uint64]
_START = 0x0A  # each text is read as if a line break came before it
_MAX_ORDER = 8  # bytes that fit into one 64-bit code


def compression_baselines(texts: Sequence[str]) -> dict[str, float]:
    """Bits per byte of general compressors, each text by itself, as a model without training text would need.

    Returns:
        {"gzip": level 9, "xz": preset 9 extreme}; the total of compressed bits over the total of UTF-8 bytes.
    """
    data = [text.encode() for text in texts]
    total = max(sum(map(len, data)), 1)
    packed = {
        "gzip": sum(len(gzip.compress(item, 9, mtime=0)) for item in data),
        "xz": sum(len(_xz(item)) for item in data),
    }
    return {name: round(8 * size / total, 4) for name, size in packed.items()}


def _xz(data: bytes) -> bytes:
    """At preset 9 extreme, with a dictionary no larger than the text: its usual 64 MB cost 20 ms for each sentence."""
    size = min(1 << 26, max(4096, 1 << (len(data) - 1).bit_length()))
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": size}]
    return lzma.compress(data, filters=filters)


def ngram_bits_per_byte(train_texts: Sequence[str], heldout_texts: Sequence[str], order: int = 6) -> float:
    """Bits per byte of an interpolated modified Kneser-Ney model over bytes, on held-out texts.

    The probability of a byte given the `order - 1` before it backs off through every shorter context down to the
    uniform distribution over 256 bytes. Lower orders use continuation counts (how many different bytes precede the
    n-gram), and the three discounts of each order come from its own counts (Chen & Goodman 1999, equations 12-26).

    Args:
        order: longest n-gram in bytes, 1 to 8. On ten megabytes of source text 6 or 7 is best.
    """
    return KneserNey(train_texts, order).bits_per_byte(heldout_texts)


@dataclass(frozen=True)
class _Level:
    """One order: the seen n-grams, and what a context leaves to the next shorter order."""

    grams: Codes  # sorted
    share: NDArray[np.float32]  # (grams,) discounted count over the context's count
    contexts: Codes  # sorted
    backoff: NDArray[np.float32]  # (contexts,) probability mass left to the shorter order


class KneserNey:
    """Interpolated modified Kneser-Ney over bytes; an n-gram is a 64-bit code and a table is two sorted arrays."""

    def __init__(self, train_texts: Sequence[str], order: int) -> None:
        assert 1 <= order <= _MAX_ORDER, f"order {order} is not in 1..{_MAX_ORDER}"
        self.order = order
        stream, starts = _stream(train_texts, order)
        self._levels: list[_Level] = []
        with progress.task("n-gram baseline", order, "orders") as bar:
            grams, counts = np.unique(_codes(stream, order)[starts], return_counts=True)
            for n in range(order, 0, -1):
                self._levels.append(_level(grams, counts.astype(np.float64)))
                # What is left when the first byte is dropped; how many different first bytes each has is its count.
                grams, counts = _continuations(grams, n)
                bar.advance()
        self._levels.reverse()

    def bits_per_byte(self, texts: Sequence[str]) -> float:
        """Mean of -log2 p over all bytes of `texts`."""
        bits = self._bits(texts)
        return float(bits.mean()) if len(bits) else 0.0

    def bits_of(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """(texts,) mean of -log2 p over the bytes of each text."""
        lengths = np.array([len(text.encode()) for text in texts], np.int64)
        running = np.concatenate([[0.0], np.cumsum(self._bits(texts))])
        ends = np.cumsum(lengths)
        return (running[ends] - running[ends - lengths]) / np.maximum(lengths, 1)

    def _bits(self, texts: Sequence[str]) -> NDArray[np.float64]:
        stream, starts = _stream(texts, self.order)
        codes = _codes(stream, self.order)[starts]
        probability = np.full(len(codes), 1 / 256)
        for n, level in enumerate(self._levels, 1):
            probability = _interpolate(level, codes & _mask(n), probability)
        return -np.log2(probability)


def _interpolate(level: _Level, grams: Codes, shorter: NDArray[np.float64]) -> NDArray[np.float64]:
    """p_n = discounted share + backoff x p_(n-1); a context never seen leaves everything to the shorter order."""
    context, known = _find(level.contexts, grams >> np.uint64(8))
    left = np.where(known, level.backoff[context], 1.0)
    gram, seen = _find(level.grams, grams)
    return np.where(seen, level.share[gram], 0.0) + left * shorter


def _find(table: Codes, wanted: Codes) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    place = np.minimum(np.searchsorted(table, wanted), len(table) - 1)
    return place, table[place] == wanted


def _level(grams: Codes, counts: NDArray[np.float64]) -> _Level:
    one, two, three, four = (int(np.count_nonzero(counts == k)) for k in (1, 2, 3, 4))
    y = one / max(one + 2 * two, 1)
    raw = (1 - 2 * y * two / max(one, 1), 2 - 3 * y * three / max(two, 1), 3 - 4 * y * four / max(three, 1))
    discounts = np.array([0.0, *(min(max(d, 0.1), k) for k, d in enumerate(raw, 1))])
    kind = np.minimum(counts, 3).astype(np.int64)
    contexts, first = np.unique(grams >> np.uint64(8), return_index=True)
    totals = np.add.reduceat(counts, first)
    spread = np.diff(np.append(first, len(grams)))
    share = (counts - discounts[kind]) / np.repeat(totals, spread)
    backoff = np.add.reduceat(discounts[kind], first) / totals
    return _Level(grams, share.astype(np.float32), contexts, backoff.astype(np.float32))


def _continuations(grams: Codes, n: int) -> tuple[Codes, NDArray[np.int64]]:
    shorter = np.sort(grams & _mask(n - 1))
    return np.unique(shorter, return_counts=True)


def _mask(n: int) -> np.uint64:
    return np.uint64((1 << (8 * n)) - 1)


def _stream(texts: Sequence[str], order: int) -> tuple[Bytes, NDArray[np.int64]]:
    """All texts, each after `order - 1` line breaks; and the positions where a window of `order` bytes ends in text."""
    padding = bytes([_START]) * (order - 1)
    data = [text.encode() for text in texts]
    stream = np.frombuffer(b"".join(padding + item for item in data), np.uint8)
    lengths = np.array([len(item) for item in data], np.int64)
    first = np.cumsum(lengths + order - 1) - lengths - (order - 1)
    starts = np.repeat(first - (np.cumsum(lengths) - lengths), lengths) + np.arange(lengths.sum())
    return stream, starts


def _codes(stream: Bytes, order: int) -> Codes:
    """(positions,) the `order` bytes from each position as one number, the last byte lowest."""
    count = max(len(stream) - order + 1, 0)
    codes = np.zeros(count, np.uint64)
    for k in range(order):
        codes = (codes << np.uint64(8)) | stream[k : k + count]
    return codes
