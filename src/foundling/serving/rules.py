"""Guardrails: what may be asked and answered, from a YAML file.

refuse_questions: ["(?i)how to make a bomb"]     # a 400 that says which field, not which rule
refuse_answers: ["(?i)internal use only"]        # the answer is replaced
redact: {"[\\w.+-]+@[\\w-]+\\.[\\w.]+": "<e-mail>"}  # in answers
refusal: "I cannot help with that."
"""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from foundling.core.config import Config, option, parse
from foundling.core.errors import FoundlingError
from foundling.serving.errors import ApiError


class RulesFile(Config):
    """The YAML file's fields; patterns are Python regular expressions, searched anywhere in the text."""

    refuse_questions: tuple[str, ...] = option((), "patterns of questions that are refused")
    refuse_answers: tuple[str, ...] = option((), "patterns of answers that are replaced by `refusal`")
    redact: dict[str, str] = option({}, "patterns in answers, and what is written instead")
    refusal: str = option("I cannot help with that.", "what stands in for a refused answer")


class Rules:
    """Compiled guardrails.

    Attributes:
        hold_answers: whether answers must be whole before they are shown, so that streams send them at the end.
    """

    def __init__(self, file: RulesFile, where: str) -> None:
        self.refusal = file.refusal
        self.questions = [_compiled(pattern, where) for pattern in file.refuse_questions]
        self.answers = [_compiled(pattern, where) for pattern in file.refuse_answers]
        self.redactions = [(_compiled(pattern, where), instead) for pattern, instead in file.redact.items()]
        self.hold_answers = bool(self.answers or self.redactions)

    def check_question(self, text: str, param: str) -> None:
        """Refuse a question that a rule forbids.

        Raises:
            ApiError: 400 with code content_filter.
        """
        if any(pattern.search(text) for pattern in self.questions):
            raise ApiError(400, f"'{param}' is refused by this server's rules", param=param, code="content_filter")

    def clean_answer(self, text: str) -> str:
        """The answer as it may be shown."""
        if any(pattern.search(text) for pattern in self.answers):
            return self.refusal
        for pattern, instead in self.redactions:
            text = pattern.sub(instead, text)
        return text


def read_rules(path: Path | None) -> Rules:
    """The rules in a file; no file, no rules.

    Raises:
        FoundlingError: the file is missing, is not YAML, has unknown fields or a pattern that is none.
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
