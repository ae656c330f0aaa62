"""The three things a task may ask of a model. They are the whole border between models and tasks.

A `Loglikelihood` asks how likely a continuation is after a context, a `Rolling` how likely a whole text is, and a
`Generate` for text. The same three are lm-evaluation-harness's `LM` interface (`lm_eval.api.model.LM`), so its tasks
run on our models and ours on its.

    Loglikelihood("Paris is the capital of", " France")   -> LoglikelihoodAnswer(logprob=-0.3, is_greedy=True, ...)
    Rolling("def main():\\n    pass\\n")                     -> RollingAnswer(logprob=-11.2, tokens=9)
    Generate("Q: 2+2?\\nA:", max_tokens=8, stop=("\\n",))    -> GenerateAnswer(texts=(" 4",), ...)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

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


class Answerer(Protocol):
    """Whatever can answer requests: a local model, a server, another harness's model."""

    def answer(self, requests: Sequence[Request]) -> list[Answer]:
        """One answer per request, in order."""
        ...

    def new_block(self) -> None:
        """Forget caches, so that a block's answers do not depend on what was asked before it."""
        ...
