"""The published quality rules in plain Python, one document at a time, written from the papers' tables."""

from __future__ import annotations

import re
from collections import Counter

from foundling.corpus.characters import PUNCTUATION, TERMINAL, _class_table

STOP_WORDS = {"the", "be", "to", "of", "and", "that", "have", "with"}


def is_mark(char: str) -> bool:
    return bool(_class_table()[ord(char)] & PUNCTUATION)


def gopher_quality(text: str, words: list[str]) -> bool:
    real = [w for w in words if not all(map(is_mark, w))]
    if not 50 <= len(real) <= 100_000 or not 3 <= sum(map(len, real)) / len(real) <= 10:
        return False
    if text.count("#") / len(words) > 0.1 or (text.count("...") + text.count("…")) / len(words) > 0.1:
        return False
    lines = text.splitlines()
    if sum(line.lstrip().startswith(("•", "-")) for line in lines) / len(lines) > 0.9:
        return False
    if sum(line.rstrip().endswith(("...", "…")) for line in lines) / len(lines) > 0.3:
        return False
    if sum(any(c.isalpha() for c in w) for w in words) / len(words) < 0.8:
        return False
    return len(STOP_WORDS & set(words)) >= 2


def repeated(pieces: list[str]) -> tuple[int, int]:
    seen: set[str] = set()
    again = [p for p in pieces if p in seen or seen.add(p)]  # type: ignore[func-returns-value]
    return len(again), sum(map(len, again))


def gopher_repetition(text: str, words: list[str]) -> bool:
    if not text:
        return False
    for pieces, share, characters in (
        (re.split(r"\n{2,}", text.strip()), 0.3, 0.2),
        (re.split(r"\n+", text), 0.3, 0.2),
    ):
        count, size = repeated(pieces)
        if count / len(pieces) > share or size / len(text) > characters:
            return False
    for n, limit in ((2, 0.2), (3, 0.18), (4, 0.16)):
        grams = Counter(" ".join(words[i : i + n]) for i in range(len(words) - n + 1))
        if grams:
            gram, count = grams.most_common(1)[0]
            if len(gram) * count / len(text) > limit:
                return False
    return all(
        walk(words, n) / len(text) <= limit for n, limit in zip(range(5, 11), (0.15, 0.14, 0.13, 0.12, 0.11, 0.1))
    )


def walk(words: list[str], n: int) -> int:
    seen: set[tuple[str, ...]] = set()
    size = i = 0
    while i < len(words) - n + 1:
        gram = tuple(words[i : i + n])
        if gram in seen:
            size += sum(map(len, gram))
            i += n
        else:
            seen.add(gram)
            i += 1
    return size


def fineweb(text: str, words: list[str]) -> bool:
    lines = [line for line in text.split("\n") if line.strip()]
    if not lines:
        return False
    if sum(bool(_class_table()[ord(line[-1])] & TERMINAL) for line in lines) / len(lines) < 0.12:
        return False
    if sum(len(line) <= 30 for line in lines) / len(lines) > 0.67:
        return False
    if repeated(lines)[1] / len(text.replace("\n", "")) > 0.01:
        return False
    return text.count("\n") / len(words) <= 0.3


def c4(text: str, count_sentences) -> str | None:  # type: ignore[no-untyped-def]
    kept, sentences = [], 0
    for line in text.splitlines():
        line = line.strip()
        words = line.split()
        if any(len(w) > 1000 for w in words):
            continue
        line = re.sub(r"\[\d*]|\[edit]|\[citation needed]", "", line)
        if not line.endswith((".", "?", "!", '"', "'")) or line.endswith("...") or len(words) < 3:
            continue
        lower = line.lower()
        if "lorem ipsum" in lower:
            return None
        if "javascript" in lower:
            continue
        if "{" in line:
            return None
        policies = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")
        if any(policy in lower for policy in policies):
            continue
        sentences += count_sentences(line)
        kept.append(line)
    return "\n".join(kept).strip() if sentences >= 5 else None
