"""The one chat renderer: messages -> (ids, loss mask, stop ids), for SFT, preferences, evaluation and the server.

Templates are Hugging Face's (sandboxed Jinja). Three promises beyond them:

- Text from a message never becomes a control token: a user who types "<|im_end|>" gets those characters.
- `loss_mask` marks what the assistant must produce: everything after the generation prompt up to and including its
  end-of-turn token.
- Prefix stable: the ids of a conversation begin with the ids of the prompt that its answer was generated from, also
  where the tokenizer would merge the prompt's last characters with the answer's first.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from itertools import pairwise
from typing import Any

from jinja2 import Template, TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from foundling.core.errors import FoundlingError
from foundling.tokenization.tokenizer import Tokenizer

CHATML = (
    "{%- for message in messages -%}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + (message['content'] or '') + '<|im_end|>\\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}"
)
# Unicode noncharacters ("for internal use by a program"): marks inside rendered text that no template can write.
_OPEN, _CLOSE, _LITERAL_OPEN, _LITERAL_CLOSE, _PROBE = "\ufdd0", "\ufdd1", "\ufdd2", "\ufdd3", "\ufdd4"
_LITERAL = re.compile(f"{_LITERAL_OPEN}(\\d+){_LITERAL_CLOSE}")
# Templates that print today's date get a fixed one, so that the same messages always give the same ids.
DEFAULT_DATE = date(2024, 7, 26)


@dataclass(frozen=True)
class Rendered:
    """A conversation as the model reads it.

    Attributes:
        ids: token ids.
        loss_mask: True where the assistant's own tokens are; as long as `ids`.
        stop_ids: the ids that end the assistant's turn.
        text: what `ids` spell.
    """

    ids: list[int]
    loss_mask: list[bool]
    stop_ids: tuple[int, ...]
    text: str


def render(
    tokenizer: Tokenizer,
    messages: Sequence[Mapping[str, Any]],
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    add_generation_prompt: bool = False,
    today: date = DEFAULT_DATE,
    **options: Any,
) -> Rendered:
    """Render `messages` with the tokenizer's chat template.

    Args:
        messages: `{"role", "content"}` each, OpenAI's form (tool calls included).
        tools: function schemas, for templates that take them.
        add_generation_prompt: end with the assistant's header, for it to answer.
        today: the date for templates that print one.
        options: further template variables, such as `enable_thinking`.

    Raises:
        FoundlingError: no template, messages of the wrong shape, or the template refuses them.
    """
    if tokenizer.chat_template is None:
        raise FoundlingError(
            "this tokenizer has no chat template", "chat needs one", "Add `chat_template` to tokenizer_config.json."
        )
    _check(messages)
    literals = _Literals(tokenizer)
    view = _View(tokenizer, literals.hide(list(messages)), literals.hide(tools), today, options)
    marked = view.render(len(messages), add_generation_prompt)
    text = marked.replace(_OPEN, "").replace(_CLOSE, "")
    stops = tuple(t for t, i in tokenizer.special_tokens.items() if i in tokenizer.stop_ids)
    spans = _tagged_spans(marked, stops) if _OPEN in marked else _answer_spans(view, text, stops)
    ids, mask = _encode(tokenizer, literals, text, spans)
    return Rendered(ids, mask, tokenizer.stop_ids, literals.show(text))


class _View:
    """A compiled template with everything but the number of messages fixed."""

    def __init__(self, tokenizer: Tokenizer, messages: list[Any], tools: Any, today: date, options: dict[str, Any]):
        self.template = _compiled(tokenizer.chat_template or "")
        self.messages = messages
        names = ("bos_token", "eos_token", "pad_token", "unk_token")
        tokens = {n: _text(tokenizer.config[n]) for n in names if tokenizer.config.get(n) is not None}
        self.variables = {**tokens, "tools": tools, "documents": None, "strftime_now": today.strftime, **options}

    def render(self, count: int, add_generation_prompt: bool, replace: Mapping[int, Any] | None = None) -> str:
        messages = [(replace or {}).get(i, m) for i, m in enumerate(self.messages[:count])]
        try:
            return self.template.render(
                messages=messages, add_generation_prompt=add_generation_prompt, **self.variables
            )
        except (TemplateError, TypeError, ValueError, KeyError) as error:
            raise FoundlingError(f"the chat template refuses these messages: {error}") from error

    def beginning(self, count: int, add_generation_prompt: bool) -> str | None:
        """The first `count` messages; None where the template refuses (some do for a lone system turn)."""
        try:
            return self.render(count, add_generation_prompt)
        except FoundlingError:
            return None


class _Literals:
    """Hides control tokens that occur in messages, so that the template's own are the only ones in its output."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        marks = (_OPEN, _CLOSE, _LITERAL_OPEN, _LITERAL_CLOSE, _PROBE)
        self._controls = sorted(tokenizer.special_tokens, key=len, reverse=True)
        self._pattern = re.compile("|".join(re.escape(s) for s in (*self._controls, *marks)))
        self._hidden: list[str] = []

    def hide(self, value: Any) -> Any:
        if isinstance(value, str):
            return self._pattern.sub(self._replace, value)
        if isinstance(value, Mapping):
            return {key: self.hide(item) for key, item in value.items()}
        if isinstance(value, Sequence):
            return [self.hide(item) for item in value]
        return value

    def show(self, text: str) -> str:
        return _LITERAL.sub(lambda m: self._hidden[int(m[1])], text)

    def encode(self, tokenizer: Tokenizer, text: str) -> list[int]:
        if not _LITERAL.search(text):
            return tokenizer.encode(text, special=True)
        ids: list[int] = []
        for piece in re.split("(" + "|".join(re.escape(s) for s in self._controls) + ")", text):
            control = tokenizer.special_tokens.get(piece)
            ids.extend([control] if control is not None else tokenizer.encode(self.show(piece)))
        return ids

    def _replace(self, match: re.Match[str]) -> str:
        self._hidden.append(match[0])
        return f"{_LITERAL_OPEN}{len(self._hidden) - 1}{_LITERAL_CLOSE}"


def _encode(
    tokenizer: Tokenizer, literals: _Literals, text: str, spans: list[tuple[int, int]]
) -> tuple[list[int], list[bool]]:
    """Encode prompt and answers piece by piece: exact mask, and the cut falls where generation starts."""
    cuts = [0, *(edge for span in spans for edge in span), len(text)]
    pieces = [literals.encode(tokenizer, text[a:b]) if b > a else [] for a, b in pairwise(cuts)]
    ids = [i for piece in pieces for i in piece]
    mask = [number % 2 == 1 for number, piece in enumerate(pieces) for _ in piece]
    plain = literals.show(text)
    if tokenizer.is_byte_level or plain != text or tokenizer.encode(text, special=True) == ids:
        return ids, mask
    # A tokenizer that writes a space before each piece (SentencePiece): encode whole, and mask by offsets.
    whole = tokenizer.fast.encode(text, add_special_tokens=False)
    inside = [any(a <= start < b for a, b in spans) for start, _ in whole.offsets]
    return whole.ids, inside


def _tagged_spans(marked: str, stops: Sequence[str]) -> list[tuple[int, int]]:
    """Spans of a template's own `{% generation %}` blocks, each with the end-of-turn token that follows."""
    spans, position, start = [], 0, 0
    for piece in re.split(f"([{_OPEN}{_CLOSE}])", marked):
        if piece == _OPEN:
            start = position
        elif piece == _CLOSE:
            spans.append((start, position))
        else:
            position += len(piece)
    text = marked.replace(_OPEN, "").replace(_CLOSE, "")
    return [(a, b + next((len(s) for s in stops if text.startswith(s, b)), 0)) for a, b in spans]


def _answer_spans(view: _View, text: str, stops: Sequence[str]) -> list[tuple[int, int]]:
    spans: list[tuple[int, int]] = []
    for index, message in enumerate(view.messages):
        if message["role"] != "assistant":
            continue
        start = max(_answer_start(view, index, text), spans[-1][1] if spans else 0)
        turn_end = _turn_end(view, index, text)
        ends = [text.find(stop, start, turn_end) + len(stop) for stop in stops if text.find(stop, start, turn_end) >= 0]
        spans.append((start, min(ends, default=max(turn_end, start))))
    return spans


def _answer_start(view: _View, index: int, text: str) -> int:
    prompt = view.beginning(index, True)
    if prompt is not None and text.startswith(prompt):
        return len(prompt)
    # The template writes past turns in another way than the prompt they answered (it drops the reasoning, say):
    # put a mark in place of the answer; up to where the two renderings part, the text does not depend on it.
    marked = view.render(len(view.messages), False, {index: {**view.messages[index], "content": _PROBE}})
    return next((n for n, (a, b) in enumerate(zip(marked, text)) if a != b), min(len(marked), len(text)))


def _turn_end(view: _View, index: int, text: str) -> int:
    """Where message `index` ends at the latest: its end-of-turn token may be one that we do not know as such."""
    if index + 1 == len(view.messages):
        return len(text)
    so_far = view.beginning(index + 1, False)
    return len(so_far) if so_far is not None and text.startswith(so_far) else len(text)


def _check(messages: Sequence[Mapping[str, Any]]) -> None:
    for number, message in enumerate(messages):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise FoundlingError(f"message {number} is {message!r}", 'each message is {"role": ..., "content": ...}')
        content = message.get("content")
        if content is not None and not isinstance(content, (str, list)):
            raise FoundlingError(f"message {number}: content is {type(content).__name__}", "it should be a text")


@lru_cache(maxsize=32)
def _compiled(template: str) -> Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    try:
        return environment.from_string(template)
    except TemplateError as error:
        raise FoundlingError(f"the chat template is not valid Jinja: {error}") from error


class _GenerationTag(Extension):
    """`{% generation %}…{% endgeneration %}`: what the assistant writes, between two marks."""

    tags = {"generation"}  # noqa: RUF012 (Jinja's own interface)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        before, after = (nodes.Output([nodes.TemplateData(mark)], lineno=line) for mark in (_OPEN, _CLOSE))
        return [before, *body, after]


def _to_json(value: Any, indent: int | None = None, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent, **options)


def _refuse(message: str) -> None:
    raise TemplateError(message)


def _text(token: Any) -> str:
    return token["content"] if isinstance(token, Mapping) else token
