"""The three things a task may ask of a model. They are the whole border between models and tasks.

A `Loglikelihood` asks how likely a continuation is after a context, a `Rolling` how likely a whole text is, and a
`Generate` for text. The same three are lm-evaluation-harness's `LM` interface (`lm_eval.api.model.LM`), so its tasks
run on our models and ours on its.

    Loglikelihood("Paris is the capital of", " France")   -> LoglikelihoodAnswer(logprob=-0.3, is_greedy=True, ...)
    Rolling("def main():\\n    pass\\n")                     -> RollingAnswer(logprob=-11.2, tokens=9)
    Generate("Q: 2+2?\\nA:", max_tokens=8, stop=("\\n",))    -> GenerateAnswer(texts=(" 4",), ...)
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence, Set
from dataclasses import asdict, dataclass
from typing import Any

Messages = tuple[tuple[str, str], ...]  # (role, content) of each message, put through the chat template


@dataclass(frozen=True)
class Loglikelihood:
    """log p(continuation | context), natural log. An empty context means the beginning of a document."""

    context: str | Messages
    continuation: str


@dataclass(frozen=True)
class Rolling:
    """log p(text) from the beginning of a document, in windows if it is longer than the model's context."""

    text: str


@dataclass(frozen=True)
class Generate:
    """Text after a prompt: plain text or messages.

    `temperature=0` is greedy. The n samples share the prompt's computation and are fixed by `seed`.
    `begins_document` puts the beginning-of-text token before a plain prompt, as in training data.
    """

    prompt: str | Messages
    max_tokens: int = 64
    stop: tuple[str, ...] = ()
    temperature: float = 0.0
    n: int = 1
    seed: int = 0
    begins_document: bool = False


Request = Loglikelihood | Rolling | Generate


@dataclass(frozen=True)
class LoglikelihoodAnswer:
    """`truncated`: the context did not fit and lost its beginning. `is_greedy`: greedy decoding gives just this."""

    logprob: float
    is_greedy: bool
    tokens: int
    truncated: bool = False
    prompt_tokens: int = 0


@dataclass(frozen=True)
class RollingAnswer:
    """The text's natural log probability and its number of tokens."""

    logprob: float
    tokens: int


@dataclass(frozen=True)
class GenerateAnswer:
    """`texts[i]` ended by `finish_reasons[i]`: "stop", or "length" if it was cut off at max_tokens.

    `truncated`: the prompt did not fit and lost its beginning.
    """

    texts: tuple[str, ...]
    finish_reasons: tuple[str, ...]
    prompt_tokens: int
    tokens: int
    truncated: bool = False


Answer = LoglikelihoodAnswer | RollingAnswer | GenerateAnswer


class Answerer(ABC):
    """Whatever can answer requests: a local model, a server, another harness's model."""

    @abstractmethod
    def answer(self, requests: Sequence[Request]) -> list[Answer]:
        """One answer per request, in order."""

    def answer_each(self, requests: Sequence[Request], known: Set[int] = frozenset()) -> Iterator[tuple[int, Answer]]:
        """(index, answer) of the requests that are not known, as they come (here: all at the end)."""
        rest = [index for index in range(len(requests)) if index not in known]
        yield from zip(rest, self.answer([requests[index] for index in rest]), strict=True)

    def new_block(self) -> None:  # noqa: B027 - most have nothing to forget
        """Forget caches, so that a block's answers do not depend on what was asked before it."""


def read_and_written(answer: Answer) -> tuple[int, int]:
    """Tokens of the prompt as it was sent, and tokens generated: what an answer costs."""
    if isinstance(answer, GenerateAnswer):
        return answer.prompt_tokens, answer.tokens
    return (answer.prompt_tokens if isinstance(answer, LoglikelihoodAnswer) else 0) + answer.tokens, 0


def request_key(request: Request) -> str:
    """A name for what is asked: equal requests have equal ones."""
    text = json.dumps([type(request).__name__, asdict(request)], ensure_ascii=False)
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


def answer_row(answer: Answer) -> dict[str, Any]:
    """An answer as JSON data; `answer_of` reads it back."""
    return {"kind": type(answer).__name__, **asdict(answer)}


def answer_of(row: dict[str, Any]) -> Answer:
    """The answer that `answer_row` wrote."""
    kinds: dict[str, Any] = {kind.__name__: kind for kind in (LoglikelihoodAnswer, RollingAnswer, GenerateAnswer)}
    fields: dict[str, Any] = {n: tuple(value) if isinstance(value, list) else value for n, value in row.items()}
    made: Answer = kinds[fields.pop("kind")](**fields)
    return made
