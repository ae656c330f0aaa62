"""Where the words of a text are: our own splitter, in array operations.

It follows the rules of spaCy's English tokenizer without its exception lists: text is cut at white space; leading and
trailing punctuation is cut off character by character; the middle is cut at hyphens between letters, at "...",
before "'s" and the like. Chinese and Japanese characters are words by themselves.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from foundling.corpus.characters import ALPHA, IDEOGRAPH, SPACE, UPPER, Batch, Codes, Spans
from foundling.corpus.columns import Ints

Mask = NDArray[np.bool_]
_BOTH_ENDS = "…,:;!?¿؟¡()[]{}<>_#*&。？！，、；：～·।،۔؛٪'\"”“`‘´’‚„»«「」『』（）〔〕【】《》〈〉〈〉⟦⟧§—–"
_LEADING = _BOTH_ENDS + "%=+$£€¥฿₽﷼₴₠₡₢₣₤₥₦₧₨₩₪₫€₭₮₯₰₱₲₳₴₵₶₷₸₹₺₻₼₽₾₿"
_TRAILING = _BOTH_ENDS + ".%"
_APOSTROPHES = (0x27, 0x2019)
_CONTRACTED = ("s", "S", "m", "d", "t", "ll", "re", "ve")


def word_spans(batch: Batch) -> Spans:
    """The words (and punctuation marks) of every text."""
    codes, solid = batch.codes, ~batch.has(SPACE)
    if not solid.any():
        empty = np.zeros(0, np.int64)
        return Spans(empty, empty, np.zeros(len(batch) + 1, np.int64))
    edges = _chunk_edges(solid, batch.offsets)
    starts, ends = edges
    begins = np.zeros(len(codes) + 1, bool)
    begins[starts] = True
    core_start, core_end = _cores(codes, starts, ends)
    _cut_ends(codes, begins, starts, ends, core_start, core_end)
    _cut_inside(batch, begins, starts, ends, core_start, core_end)
    begins[:-1] &= solid
    first = np.flatnonzero(begins[:-1])
    chunk = np.searchsorted(starts, first, side="right") - 1
    following = np.append(first[1:], len(codes))
    return Spans(first, np.minimum(following, ends[chunk]), np.searchsorted(first, batch.offsets))


def _chunk_edges(solid: Mask, offsets: Ints) -> tuple[Ints, Ints]:
    """((chunks,) starts, (chunks,) ends) of runs without white space, inside one text."""
    begin = solid.copy()
    begin[1:] &= ~solid[:-1]
    inner = offsets[1:-1][offsets[1:-1] < len(solid)]
    begin[inner] = solid[inner]
    finish = solid.copy()
    finish[:-1] &= ~solid[1:]
    before = inner[inner > 0] - 1
    finish[before] = solid[before]
    return np.flatnonzero(begin), np.flatnonzero(finish) + 1


def _cores(codes: Codes, starts: Ints, ends: Ints) -> tuple[Ints, Ints]:
    """What is left of each chunk when leading and trailing punctuation is cut off; may be empty."""
    leading, trailing = _table(_LEADING), _table(_TRAILING)
    body = np.flatnonzero(~leading[np.minimum(codes, 0xFFFF)])
    place = np.searchsorted(body, starts)
    core_start = np.minimum(np.append(body, len(codes))[place], ends)
    body = np.flatnonzero(~trailing[np.minimum(codes, 0xFFFF)])
    place = np.searchsorted(body, ends)
    core_end = np.maximum(np.append(-1, body)[place] + 1, core_start)
    return core_start, core_end


def _cut_ends(codes: Codes, begins: Mask, starts: Ints, ends: Ints, core_start: Ints, core_end: Ints) -> None:
    """Every leading or trailing mark is a word of its own; only a run of dots stays together."""
    outer = _covered(len(codes), starts, core_start) | _covered(len(codes), core_end, ends)
    outer[1:] &= ~((codes[1:] == 0x2E) & (codes[:-1] == 0x2E))
    begins[:-1] |= outer
    begins[core_start[core_start < core_end]] = True
    # A dot that ends an initial ("J.") or stands in an abbreviation ("U.S.") belongs to it.
    dotted = core_end[(core_end < ends) & (core_end > core_start)]
    dotted = dotted[codes[dotted] == 0x2E]
    single = (dotted >= 2) & (_upper(codes[dotted - 1])) & (codes[np.maximum(dotted - 2, 0)] == 0x2E)
    alone = np.isin(dotted - 1, starts) & _upper(codes[dotted - 1])
    only_dot = np.isin(dotted + 1, ends)
    begins[dotted[(single | alone) & only_dot]] = False


def _cut_inside(batch: Batch, begins: Mask, starts: Ints, ends: Ints, core_start: Ints, core_end: Ints) -> None:
    codes = batch.codes
    inside = _covered(len(codes), core_start, core_end)
    ideographs = inside & batch.has(IDEOGRAPH)
    begins[:-1] |= ideographs
    begins[1:] |= ideographs
    inner = inside.copy()
    inner[:1] = inner[-1:] = False
    marks = np.flatnonzero(inner & ~batch.has(ALPHA))
    if not len(marks):
        return
    in_url = _in_url(codes, marks, starts)
    marks = marks[~in_url]
    mark, before, after = codes[marks], marks - 1, marks + 1
    alpha, upper = batch.has(ALPHA), batch.has(UPPER)
    digit = (codes >= 0x30) & (codes <= 0x39)
    letters = alpha[before] & alpha[after]
    cut = letters & np.isin(mark, [0x2D, 0x2013, 0x2014, 0x7E, 0x2C])
    cut |= (mark == 0x2E) & alpha[before] & ~upper[before] & upper[after]
    cut |= np.isin(mark, [0x2B, 0x2D, 0x2A, 0x5E]) & digit[before] & (digit[after] | (codes[after] == 0x2D))
    cut |= np.isin(mark, [0x3A, 0x3C, 0x3E, 0x3D, 0x2F]) & (alpha[before] | digit[before]) & alpha[after]
    cut |= mark == 0x2026
    dots = (mark == 0x2E) & ((codes[after] == 0x2E) | (codes[before] == 0x2E))
    begins[marks[cut | dots]] = True
    begins[after[cut]] = True
    begins[after[dots & (codes[after] != 0x2E)]] = True
    begins[marks[dots & (codes[before] == 0x2E)]] = False
    _cut_contractions(codes, begins, marks, core_end)


def _cut_contractions(codes: Codes, begins: Mask, marks: Ints, core_end: Ints) -> None:
    """ "it's" is two words, "don't" too."""
    apostrophes = marks[np.isin(codes[marks], _APOSTROPHES)]
    rest = (
        core_end[np.minimum(np.searchsorted(core_end, apostrophes, side="right"), len(core_end) - 1)] - apostrophes - 1
    )
    for ending in _CONTRACTED:
        here = apostrophes[rest == len(ending)]
        same = np.ones(len(here), bool)
        for k, letter in enumerate(ending, 1):
            same &= codes[here + k] == ord(letter)
        here = here[same]
        negated = (codes[here - 1] == ord("n")) if ending == "t" else np.zeros(len(here), bool)
        begins[here - negated] = True  # "do" + "n't", but "it" + "'s"


def _in_url(codes: Codes, marks: Ints, starts: Ints) -> Mask:
    """Whether a mark stands in a chunk that holds "://" or begins with "www.": addresses are one word."""
    colon = np.flatnonzero((codes[:-2] == 0x3A) & (codes[1:-1] == 0x2F) & (codes[2:] == 0x2F))
    www = starts[starts + 4 < len(codes)]
    www = www[(codes[www] == 0x77) & (codes[www + 1] == 0x77) & (codes[www + 2] == 0x77) & (codes[www + 3] == 0x2E)]
    chunks = np.searchsorted(starts, np.concatenate([colon, www]), side="right") - 1
    return np.isin(np.searchsorted(starts, marks, side="right") - 1, chunks)


def _covered(count: int, starts: Ints, ends: Ints) -> Mask:
    """(count,) whether each position lies in one of the ranges."""
    change = np.bincount(starts, minlength=count + 1) - np.bincount(ends, minlength=count + 1)
    return np.asarray(np.cumsum(change[:-1]) > 0)


def _upper(codes: Codes) -> Mask:
    return (codes >= 0x41) & (codes <= 0x5A)


@lru_cache(maxsize=2)
def _table(characters: str) -> Mask:
    table = np.zeros(0x10000, bool)
    table[[ord(c) for c in characters]] = True
    table[0xFFFF] = False  # where characters beyond the basic plane are looked up
    return table
