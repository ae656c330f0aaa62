"""Defensive post-processing: the JSON or YAML inside an answer, mended where a model typically breaks it.

For answers that were prompted, not constrained. What was mended is reported, never hidden.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

import yaml

FENCE = re.compile(r"```[\w-]*\n(.*?)(?:```|\Z)", re.DOTALL)
LITERALS = {"None": "null", "True": "true", "False": "false", "NaN": "null", "undefined": "null"}


@dataclass(frozen=True)
class Repaired:
    """What was found in an answer.

    Args:
        value: the parsed value; None if `ok` is False.
        ok: whether anything could be parsed.
        repairs: what had to be done, in order; empty if the answer was valid as it stood.
    """

    value: Any
    ok: bool
    repairs: tuple[str, ...] = ()


def repair_json(text: str) -> Repaired:
    """The first JSON value in `text`: out of its code fence and prose, with quotes, commas and brackets mended."""
    found = _loads(text)
    if found.ok:
        return found
    repairs: list[str] = []
    fenced = FENCE.search(text)
    if fenced:
        text = fenced[1]
        repairs.append("taken out of a code fence")
    begin = min((at for at in (text.find("{"), text.find("[")) if at >= 0), default=-1)
    if begin < 0:
        return Repaired(None, False, tuple(repairs))
    if text[:begin].strip():
        repairs.append("text before it removed")
    mended, notes = _mend(text[begin:])
    found = _loads(mended)
    return Repaired(found.value, found.ok, (*repairs, *notes))


def repair_yaml(text: str) -> Repaired:
    """The YAML mapping or list in `text`, out of its code fence; tabs become spaces."""
    repairs: list[str] = []
    fenced = FENCE.search(text)
    if fenced:
        text = fenced[1]
        repairs.append("taken out of a code fence")
    if "\t" in text:
        text = text.replace("\t", "  ")
        repairs.append("tabs replaced by spaces")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return Repaired(None, False, tuple(repairs))
    return Repaired(value, isinstance(value, (dict, list)), tuple(repairs))


def _loads(text: str) -> Repaired:
    try:
        return Repaired(json.loads(text), True)
    except ValueError:
        return Repaired(None, False)


def _mend(text: str) -> tuple[str, list[str]]:
    """Rewrite from the first bracket to the one that closes it; also what was done."""
    out: list[str] = []
    open_brackets: list[str] = []
    notes: dict[str, None] = {}
    at = 0
    while at < len(text):
        char = text[at]
        if char in "\"'":
            piece, at, note = _string(text, at)
            out.append(piece)
            notes.update(dict.fromkeys(note))
            continue
        word = re.match(r"[A-Za-z_]\w*", text[at:])
        if word:
            out.append(_word(word[0], text[at + len(word[0]) :], notes))
            at += len(word[0])
            continue
        if char in "{[":
            open_brackets.append("}" if char == "{" else "]")
        elif char in "}]":
            _drop_comma(out, notes)
            if open_brackets and open_brackets[-1] != char:
                notes["brackets matched"] = None
                char = open_brackets[-1]
            out.append(char)
            if open_brackets:
                open_brackets.pop()
            if not open_brackets:
                if text[at + 1 :].strip():
                    notes["text after it removed"] = None
                return "".join(out), list(notes)
            at += 1
            continue
        out.append(char)
        at += 1
    _drop_comma(out, notes)
    notes["closed where it was cut"] = None
    return "".join(out) + "".join(reversed(open_brackets)), list(notes)


def _string(text: str, at: int) -> tuple[str, int, list[str]]:
    """A quoted text from position `at`: as JSON, where it ends, and what was mended."""
    quote, notes = text[at], []
    if quote == "'":
        notes.append("single quotes replaced")
    body, end = [], at + 1
    while end < len(text) and text[end] != quote:
        if text[end] == "\\" and end + 1 < len(text):
            body.append("'" if text[end + 1] == "'" else text[end : end + 2])
            end += 2
            continue
        if text[end] in "\n\t":
            notes.append("control characters escaped")
        body.append({'"': '\\"', "\n": "\\n", "\t": "\\t"}.get(text[end], text[end]))
        end += 1
    return '"' + "".join(body) + '"', end + 1, notes


def _word(word: str, rest: str, notes: dict[str, None]) -> str:
    if word in ("true", "false", "null"):
        return word
    if word in LITERALS:
        notes["Python's literals replaced"] = None
        return LITERALS[word]
    if rest.lstrip().startswith(":"):
        notes["keys quoted"] = None
        return json.dumps(word)
    return word


def _drop_comma(out: list[str], notes: dict[str, None]) -> None:
    while out and out[-1].isspace():
        out.pop()
    if out and out[-1] == ",":
        out.pop()
        notes["trailing comma removed"] = None
