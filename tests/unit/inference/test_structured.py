"""Constrained decoding: whatever the (random) model wants, the answer has the form, or says why not."""

from __future__ import annotations

import json
import re

import pytest

from foundling.core.errors import FoundlingError
from foundling.inference.engine import Engine, Request, SamplingParams
from foundling.inference.structured.grammar import BadGrammar, Grammar, any_json, choice, json_schema, lark, regex
from foundling.inference.structured.matcher import MOST_KEPT
from foundling.models.language_model import LanguageModel
from foundling.tokenization.tokenizer import Tokenizer

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "kind": {"enum": ["student", "researcher"]},
    },
    "required": ["name", "age", "kind"],
    "additionalProperties": False,
}


def answers(engine: Engine, grammar: Grammar, count: int = 6, **options: object) -> list:
    """Random continuations under a grammar."""
    params = SamplingParams.of(
        **{"max_tokens": 110, "temperature": 1.5, "seed": 1, "n": count, "grammar": grammar} | options
    )
    return engine.generate([Request([1, 2, 3], params)])


def test_schema_holds_for_every_sample(module: LanguageModel, tokenizer: Tokenizer) -> None:
    """Guards against masks that are late, misaligned with the vocabulary, or shared between samples."""
    engine = Engine(module, tokenizer)
    for done in answers(engine, json_schema(PERSON)):
        assert done.finish_reason == "stop", done.message
        value = json.loads(done.text)
        assert set(value) == {"name", "age", "kind"} and 0 <= value["age"] <= 150
        assert len(done.logprobs) == len(done.tokens)
    assert engine.stats().forced_tokens > 0


def test_regex_choice_lark_and_json(module: LanguageModel, tokenizer: Tokenizer) -> None:
    """Guards against a kind of grammar that is compiled into another."""
    engine = Engine(module, tokenizer)
    for done in answers(engine, regex(r"[a-c]{3}-\d{2}")):
        assert re.fullmatch(r"[a-c]{3}-\d{2}", done.text)
    assert {done.text for done in answers(engine, choice(["yes", "no", 'a "maybe"']))} <= {"yes", "no", 'a "maybe"'}
    for done in answers(engine, lark('start: "(" /[0-9]{1,3}/ ")"')):
        assert re.fullmatch(r"\([0-9]{1,3}\)", done.text)
    for done in answers(engine, any_json(), logit_bias={tokenizer.encode("}")[0]: 50.0}):
        assert isinstance(json.loads(done.text), dict)


def test_forced_tokens_have_the_logprobs_of_the_model(module: LanguageModel, tokenizer: Tokenizer) -> None:
    """Guards against forced tokens without scores, or with those of other positions; whatever the chunking."""
    for chunk in (512, 3):
        engine = Engine(module, tokenizer, max_chunk=chunk)
        for done in answers(engine, json_schema(PERSON), count=2, logprobs=2):
            (score,) = Engine(module, tokenizer).score([([1, 2, 3], done.tokens)])
            assert done.logprobs == pytest.approx(score.tokens_logprobs, abs=1e-4)
            assert done.top_logprobs is not None and len(done.top_logprobs) == len(done.tokens)


@pytest.mark.parametrize("alternatives", [0, 1])
def test_streamed_pieces_are_the_whole_answer(module: LanguageModel, tokenizer: Tokenizer, alternatives: int) -> None:
    """Guards against forced tokens that no event carries, or without their (perhaps empty) alternatives."""
    engine = Engine(module, tokenizer)
    params = SamplingParams(max_tokens=110, temperature=1.5, seed=1, grammar=json_schema(PERSON), logprobs=alternatives)
    engine.add(Request([1, 2, 3], params, id="a"))
    text, tokens, logprobs, tops = "", [], [], []
    while not engine.scheduler.idle:
        for event in engine.step():
            text, tokens, logprobs = text + event.text, tokens + event.tokens, logprobs + event.logprobs
            tops += event.top_logprobs or []
    done = answers(engine, json_schema(PERSON), count=1)[0]
    assert (text, tokens) == (done.text, done.tokens) and logprobs == pytest.approx(done.logprobs, abs=1e-4)
    assert len(tops) == len(tokens)


def test_cut_answer_says_what_is_missing(module: LanguageModel, tokenizer: Tokenizer) -> None:
    """Guards against half an object that is passed off as an answer."""
    done = answers(Engine(module, tokenizer), json_schema(PERSON), count=1, max_tokens=5)[0]
    assert done.finish_reason == "length" and "not complete" in done.message


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: json_schema({"type": "object", "unevaluatedProperties": False}), "unevaluatedProperties"),
        (lambda: json_schema({"type": "array", "contains": {"type": "integer"}}), "contains"),
        (lambda: json_schema({"type": "integer", "minimum": 5, "maximum": 3}), "cannot be used"),
        (lambda: json_schema(False), "allows no answer"),
        (lambda: json_schema("{"), "not JSON"),
        (lambda: regex("a("), "cannot be used"),
        (lambda: lark("begin: 'a'"), "cannot be used"),
        (lambda: choice([]), "choices"),
    ],
)
def test_impossible_grammars_are_refused_by_name(make: object, message: str) -> None:
    """Guards against a keyword that is silently ignored, and against finding out after generation."""
    with pytest.raises(BadGrammar, match=message):
        make()  # type: ignore[operator]


def test_dead_end_harms_nobody(module: LanguageModel, tokenizer: Tokenizer) -> None:
    """Guards against sampling from nothing: the ban takes the only token that the grammar allows."""
    engine = Engine(module, tokenizer)
    token = tokenizer.encode("x")[0]
    stuck = SamplingParams(temperature=1.0, seed=1, grammar=regex("xx[ab]"), bad_words_ids=((token,),))
    fine = SamplingParams(max_tokens=5, ignore_eos=True)
    first, second = engine.generate([Request([1], stuck), Request([1], fine)])
    assert second.finish_reason == "length" and len(second.tokens) == 5
    assert first.finish_reason in ("bad_grammar", "stop")
    with pytest.raises(FoundlingError, match="tokenizer"):
        Engine(module, None).generate([Request([1], SamplingParams(grammar=regex("a")))])


def test_ever_new_grammars_do_not_pile_up(module: LanguageModel, tokenizer: Tokenizer) -> None:
    """Guards a server's memory: of the grammars that it is sent, a bounded number stays compiled."""
    engine = Engine(module, tokenizer)
    for number in range(MOST_KEPT + 5):
        engine.compile(regex(f"a{{{number + 1}}}"))
    assert len(engine._matchers._compiled) == MOST_KEPT


def test_deep_schemas_are_refused() -> None:
    """Guards against Python's recursion limit reaching whoever sent the schema."""
    schema: dict[str, object] = {"type": "string"}
    for _ in range(5000):
        schema = {"type": "array", "items": schema}
    with pytest.raises(BadGrammar, match="too deeply"):
        json_schema(schema)
