"""Comparing generated text with the truth: extraction, exact, numeric and F1 matching."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from decimal import Decimal, DecimalException

from foundling.evaluation.support import supported_share
from foundling.evaluation.task_file import Extract
from foundling.evaluation.text_metrics import NAMES, sentence_score

YES_OR_NO = ("exact", "numeric", "contains")  # matches that are 0 or 1


def extract(rule: Extract, text: str) -> str | None:
    """The answer in a text, or None if the pattern finds none. Of several groups the first that matched counts."""
    if rule.pattern is None:
        return text
    matches = list(re.finditer(rule.pattern, text))
    if not matches:
        return None
    match = matches[0 if rule.take == "first" else -1]
    found = next((group for group in match.groups() if group), match.group()) if match.groups() else match.group()
    return found.strip()


def matches(rule: Extract, answer: str, accepted: Sequence[str]) -> float:
    """How well an extracted answer fits the best of the accepted ones, 0 to 1."""
    if rule.match in NAMES:
        return sentence_score(rule.match, answer, accepted)
    if rule.match == "supported":
        return supported_share(answer, accepted)
    cleaned = _clean(rule, answer)
    return max(_one(rule, cleaned, _clean(rule, truth)) for truth in accepted)


def _one(rule: Extract, answer: str, truth: str) -> float:
    if rule.match == "exact":
        return float(answer == truth)
    if rule.match == "numeric":
        mine, theirs = number(answer), number(truth)
        return float(mine is not None and mine == theirs)
    if rule.match == "contains":
        return float(f" {normalised(truth)} " in f" {normalised(answer)} ")
    return token_f1(answer, truth)


def _clean(rule: Extract, text: str) -> str:
    for pattern in rule.ignore:
        text = re.sub(pattern, "", text)
    return text.lower() if rule.ignore_case else text


def number(text: str) -> Decimal | None:
    """The number that a text is: "1,234.50" and "$1234.5" are equal; None if it is none."""
    try:
        value = Decimal(re.sub(r"[,$%\s]|\.$", "", text)).normalize()
    except DecimalException:
        return None
    return value if value.is_finite() else None


def normalised(text: str) -> str:
    """SQuAD's normal form (Rajpurkar et al. 2016): lower case, without articles, punctuation and extra space."""
    plain = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", plain).split())


def token_f1(answer: str, truth: str) -> float:
    """Harmonic mean of word precision and recall after normalisation; two empty texts agree."""
    mine, theirs = normalised(answer).split(), normalised(truth).split()
    if not mine or not theirs:
        return float(mine == theirs)
    shared = sum((Counter(mine) & Counter(theirs)).values())
    return 2 * shared / (len(mine) + len(theirs))
