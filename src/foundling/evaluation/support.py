"""Is a text borne out by others? The share of its sentences whose content stands in one of them."""

from __future__ import annotations

import re
from collections.abc import Sequence

ENOUGH = 0.6  # share of a sentence's content words that a source must hold
_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")
_WORD = re.compile(r"\w+", re.UNICODE)
# Words that stand in any text; numbers and names, in which inventions show, are never among them.
_COMMON = frozenset(
    """a an the and or but if of in on at to for from by with as is are was were be been being it its this that these
    those he she they them his her their we you i me my your our not no so do does did has have had can could will
    would may might should shall than then there here when where which who whom whose what how why also into over
    about after before between during more most other some such only own same too very just""".split()  # noqa: SIM905
)


def supported_share(text: str, sources: Sequence[str]) -> float:
    """Share of the sentences of `text` that some source supports, 0 to 1; a text that says nothing has 1.

    A sentence is supported if one source holds most of its content words and all of its numbers. It is a check of
    words, not of meaning: it finds invented names, places and figures, not a "not" put in.
    """
    sentences = [content for part in _SENTENCE.split(text) if (content := _content(part))]
    held = [_content(source) for source in sources]
    if not sentences:
        return 1.0
    return sum(any(_supports(source, words) for source in held) for words in sentences) / len(sentences)


def _content(text: str) -> set[str]:
    return {word for word in _WORD.findall(text.lower()) if word not in _COMMON}


def _supports(source: set[str], sentence: set[str]) -> bool:
    numbers = {word for word in sentence if any(c.isdigit() for c in word)}
    return numbers <= source and len(sentence & source) >= ENOUGH * len(sentence)
