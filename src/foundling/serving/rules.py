"""Guardrails: what may be asked and answered, from a YAML file.

refuse_questions: ["(?i)how to make a bomb"]     # a 400 that says which field, not which rule
refuse_answers: ["(?i)internal use only"]        # such an answer is tried again, in the end replaced
redact: {"[\\w.+-]+@[\\w-]+\\.[\\w.]+": "<e-mail>"}  # in answers
redact_personal: [email, phone, ip, secret]      # the same with the corpus's own patterns
answer_schema: {type: object, ...}               # every answer is JSON of this schema
retries: 2
refusal: "I cannot help with that."
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml

from foundling.core.config import Config, option, parse
from foundling.core.errors import FoundlingError
from foundling.serving.errors import ApiError, refused

if TYPE_CHECKING:
    from foundling.inference.structured.grammar import Grammar
    from foundling.serving.replies import Choice

Personal = Literal["email", "phone", "ip", "secret"]


class RulesFile(Config):
    """The YAML file's fields; patterns are Python regular expressions, searched anywhere in the text."""

    refuse_questions: tuple[str, ...] = option((), "patterns of questions that are refused")
    refuse_answers: tuple[str, ...] = option((), "patterns of answers that are tried again, or replaced by `refusal`")
    redact: dict[str, str] = option({}, "patterns in answers, and what is written instead")
    redact_personal: tuple[Personal, ...] = option((), "kinds of personal data that are taken out of answers")
    answer_schema: dict[str, Any] | None = option(None, "JSON Schema that every answer is held to")
    retries: int = option(0, "how often a refused or unfinished answer is tried again", ge=0, le=10)
    refusal: str = option("I cannot help with that.", "what stands in for a refused answer")


class Rules:
    """Compiled guardrails.

    Attributes:
        hold_answers: whether answers must be whole before they are shown, so that streams send them at the end.
        retries: how often an answer that `fails` is to be tried again.
    """

    def __init__(self, file: RulesFile, where: str) -> None:
        self.refusal, self.retries = file.refusal, file.retries
        self.questions = [_compiled(pattern, where) for pattern in file.refuse_questions]
        self.answers = [_compiled(pattern, where) for pattern in file.refuse_answers]
        self.redactions = [(_compiled(pattern, where), instead) for pattern, instead in file.redact.items()]
        self.redactions += [_personal(kind) for kind in file.redact_personal]
        self.grammar = _grammar(file.answer_schema, where) if file.answer_schema else None
        self.hold_answers = bool(self.answers or self.redactions or self.retries)

    def check_question(self, text: str, param: str) -> None:
        """Refuse a question that a rule forbids.

        Raises:
            ApiError: 400 with code content_filter.
        """
        if any(pattern.search(text) for pattern in self.questions):
            raise ApiError(400, f"'{param}' is refused by this server's rules", param=param, code="content_filter")

    def form(self, asked: Grammar | None, param: str) -> Grammar | None:
        """The grammar of an answer: the one that was asked for, or the rules'.

        Raises:
            ApiError: both are there.
        """
        if asked is not None and self.grammar is not None:
            raise refused(param, "all answers of this server have a form of its own; leave this out")
        return asked or self.grammar

    def fails(self, choice: Choice) -> bool:
        """Whether an answer is worth another try: forbidden, or cut off before it had the form it must have."""
        cut = self.grammar is not None and choice.finish_reason == "length"
        return cut or any(pattern.search(choice.text) for pattern in self.answers)

    def clean(self, choice: Choice) -> Choice:
        """The answer as it may be shown. Where its text is changed, its tokens, which would spell it, go."""
        text = choice.text
        if any(pattern.search(text) for pattern in self.answers):
            text = self.refusal
        else:
            for pattern, instead in self.redactions:
                text = pattern.sub(instead, text)
        if text == choice.text:
            return choice
        return replace(choice, text=text, tokens=[], logprobs=[], alternatives=[])


def read_rules(path: Path | None) -> Rules:
    """The rules in a file; no file, no rules.

    Raises:
        FoundlingError: the file is missing, is not YAML, has unknown fields, or a pattern or schema that is none.
    """
    if path is None:
        return Rules(RulesFile(), "no rules")
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise FoundlingError(f"cannot read the rules in {path}", str(error)) from None
    if not isinstance(data, dict):
        raise FoundlingError(f"{path} is not a mapping of rules")
    return Rules(parse(RulesFile, data, str(path)), str(path))


def _compiled(pattern: str, where: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise FoundlingError(f"{where}: {pattern!r} is not a regular expression", str(error)) from None


def _personal(kind: Personal) -> tuple[re.Pattern[str], str]:
    from foundling.corpus.rules import personal

    if kind == "phone":  # its first group is what stands before the number
        return re.compile(personal.PHONE), r"\1<phone>"
    patterns = {"email": re.compile(personal.EMAIL), "ip": personal.IP, "secret": re.compile(personal.SECRETS)}
    return patterns[kind], f"<{kind}>"


def _grammar(schema: dict[str, Any], where: str) -> Grammar:
    from foundling.inference.structured.grammar import json_schema

    try:
        return json_schema(schema)
    except FoundlingError as error:
        raise FoundlingError(f"{where}: answer_schema: {error}") from None
