"""IFEval's instructions against the published verdicts and hand-made cases."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest

from foundling.core.errors import FoundlingError
from foundling.evaluation.instructions import CHECKERS, count_sentences, follows, follows_loosely

DATA = os.environ.get("FOUNDLING_DATA")

CASES: list[tuple[str, dict[str, Any], str, str]] = [
    ("change_case:capital_word_frequency", {"capital_relation": "less than", "capital_frequency": 2}, "A dog", "A B"),
    ("change_case:english_capital", {}, "THIS IS A LONG ENOUGH SENTENCE", "THIS IS A Long enough SENTENCE"),
    ("change_case:english_lowercase", {}, "this is a long enough sentence", "This is a long enough sentence"),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Say hi."}, "say hi. Hello", "Hello"),
    ("combination:two_responses", {}, "one ****** two", "one ****** one"),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, "[a] and [b]", "[a] and (b)"),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, "Bye.\np.s. more", "Bye. PS more"),
    ("detectable_format:constrained_response", {}, "My answer is no.", "No."),
    ("detectable_format:json_format", {}, '```json\n{"a": [1]}\n```', "{'a': 1}"),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "PART", "num_sections": 2},
        "PART 1 a PART 2",
        "PART 1",
    ),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "* a\n- b", "* a\n- b\n* c"),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2}, "*a* and *b*", "*a* and * *"),
    ("detectable_format:title", {}, "<<A title>>\ntext", "<< >>"),
    ("keywords:existence", {"keywords": ["tea", "milk"]}, "Tea with MILK", "Tea"),
    ("keywords:forbidden_words", {"forbidden_words": ["war"]}, "a warm day", "a War day"),
    ("keywords:frequency", {"relation": "at least", "keyword": "ha", "frequency": 3}, "haHa ha", "ha ha"),
    ("keywords:letter_frequency", {"let_relation": "less than", "letter": "Q", "let_frequency": 1}, "abc", "eq"),
    ("language:response_language", {"language": "de"}, "Das ist ein schöner Tag im Sommer.", "This is English text."),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "so"},
        "First.\n\nSo, it goes",
        "So.\n\nFirst",
    ),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "a\n***\nb", "a\n\nb"),
    ("length_constraints:number_sentences", {"relation": "less than", "num_sentences": 3}, "A b. C d.", "A. b! c? d"),
    ("length_constraints:number_words", {"relation": "at least", "num_words": 3}, "one two three", "one two"),
    ("punctuation:no_comma", {}, "no commas", "a, b"),
    ("startend:end_checker", {"end_phrase": "The end."}, 'It is "the END."', "The end. Not"),
    ("startend:quotation", {}, ' "all of it" ', '"'),
]


@pytest.mark.parametrize(("name", "arguments", "good", "bad"), CASES, ids=[case[0] for case in CASES])
def test_each_kind_accepts_and_refuses(name: str, arguments: dict[str, Any], good: str, bad: str) -> None:
    """Guards against a checker that says yes (or no) to everything."""
    assert follows(name, arguments, good)
    assert not follows(name, arguments, bad)
    assert not follows(name, arguments, "  \n")


def test_every_kind_is_tested() -> None:
    """Guards against a new checker without a case above."""
    assert {case[0] for case in CASES} == set(CHECKERS)


def test_loose_forgives_frames_and_asterisks() -> None:
    """Guards against loose judging that drops only one of the two ends."""
    assert follows_loosely("startend:quotation", {}, 'Sure!\n"**text**"\nAnything else?')
    assert not follows("startend:quotation", {}, 'Sure!\n"**text**"\nAnything else?')


def test_sentences() -> None:
    """Guards against splitting at abbreviations, decimals and initials."""
    assert count_sentences("Dr. Smith paid 3.5 dollars. J. Doe did not! Why? Who knows...") == 4
    assert count_sentences("no end") == 1 and count_sentences("") == 0


def test_unknown_instruction_and_arguments_are_named() -> None:
    """Guards against a misspelt instruction counted as not followed."""
    with pytest.raises(FoundlingError, match="punctuation:no_comma"):
        follows("punctuation:no_commas", {}, "x")
    with pytest.raises(FoundlingError, match="num_words"):
        follows("length_constraints:number_words", {"relation": "at least"}, "x")


@pytest.mark.skipif(DATA is None, reason="FOUNDLING_DATA is not set")
def test_agrees_with_published_verdicts() -> None:
    """Guards against any drift from the official checker: at least 99% of its strict and loose verdicts."""
    folder = Path(DATA or "")
    with gzip.open(folder / "eval/ifeval_prompts.jsonl.gz", "rt", encoding="utf-8") as lines:
        prompts = {row["prompt"]: row for row in map(json.loads, lines)}
    with gzip.open(folder / "vectors/ifeval_gpt4_expected.jsonl.gz", "rt", encoding="utf-8") as lines:
        published = [json.loads(line) for line in lines]
    agreements = []
    for row in published:
        prompt = prompts[row["prompt"]]
        for index, (name, arguments) in enumerate(zip(prompt["instruction_id_list"], prompt["kwargs"], strict=True)):
            agreements.append(follows(name, arguments, row["response"]) == row["strict"][index])
            agreements.append(follows_loosely(name, arguments, row["response"]) == row["loose"][index])
    assert len(agreements) > 800
    assert sum(agreements) / len(agreements) >= 0.99
