"""A grammar's state along one answer: which tokens may come next, which must, and whether it may end here."""

from __future__ import annotations

import threading
from collections import OrderedDict

import numpy as np
import torch
from llguidance import LLMatcher, LLTokenizer
from torch import Tensor

from foundling.core.errors import FoundlingError
from foundling.inference.structured.grammar import BadGrammar, Grammar
from foundling.tokenization.tokenizer import Tokenizer

MOST_KEPT = 64  # compiled grammars: a server is sent ever new ones, of up to megabytes each


class Matcher:
    """One answer's position in its grammar."""

    def __init__(self, matcher: LLMatcher, vocab_size: int) -> None:
        self._matcher, self._vocab_size = matcher, vocab_size

    def allowed(self) -> Tensor:
        """(vocab,) bool: tokens that may come next. Stop ids are among them where the answer may end."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        mask = np.unpackbits(bits, bitorder="little")[: self._vocab_size].astype(bool)
        padded = np.zeros(self._vocab_size, dtype=bool)  # the model's embedding may be larger than the vocabulary
        padded[: len(mask)] = mask
        return torch.from_numpy(padded)

    def accept(self, token: int) -> None:
        """Go on by a token that was allowed."""
        self._matcher.consume_token(token)

    def forced(self, most: int) -> list[int]:
        """The tokens that must come next whatever the model says, at most so many; they are accepted."""
        if most <= 0 or self._matcher.is_stopped():
            return []
        tokens: list[int] = self._matcher.compute_ff_tokens()[:most]
        if tokens:
            self._matcher.consume_tokens(tokens)
        return tokens

    @property
    def complete(self) -> bool:
        """Whether the answer so far is a whole one."""
        return bool(self._matcher.is_accepting())

    @property
    def ended(self) -> bool:
        """Whether nothing more can come."""
        return bool(self._matcher.is_stopped())

    @property
    def error(self) -> str:
        """What went wrong, such as a limit of the parser, in one line; "" if nothing."""
        if not self._matcher.is_error():
            return ""
        first = str(self._matcher.get_error()).strip().splitlines()[0]
        return "the grammar allows nothing from here" if first == "NoExtensionBias" else first

    def missing(self, text: str) -> str:
        """What an answer that ends here lacks, in words: what must come next, or could, and what is open in `text`."""
        must = self._matcher.compute_ff_bytes().decode("utf-8", errors="replace")
        lacks = ["the answer is not complete"]
        if must:
            lacks.append(f"{must!r} must come next")
        opened = open_brackets(text)
        if opened:
            lacks.append(f"{opened!r} is not closed")
        return "; ".join(lacks)


def open_brackets(text: str) -> str:
    """The brackets and the quote of JSON-like text that nothing has closed, outermost first."""
    opened: list[str] = []
    escaped = False
    for char in text:
        if opened and opened[-1] == '"':
            if char == '"' and not escaped:
                opened.pop()
            escaped = char == "\\" and not escaped
        elif char in '{["':
            opened.append(char)
        elif char in "]}" and opened:
            opened.pop()
    return "".join(opened)


class MatcherFactory:
    """Makes matchers for one tokenizer; a grammar that comes again soon is copied, not compiled again.

    Args:
        vocab_size: of the model's head, at least the tokenizer's.
    """

    def __init__(self, tokenizer: Tokenizer | None, vocab_size: int) -> None:
        self._tokenizer, self._vocab_size = tokenizer, vocab_size
        self._known: LLTokenizer | None = None
        self._compiled: OrderedDict[Grammar, LLMatcher] = OrderedDict()
        self._lock = threading.Lock()

    def matcher(self, grammar: Grammar) -> Matcher:
        """A fresh matcher. May be called from any thread.

        Raises:
            BadGrammar: the grammar cannot be compiled for this tokenizer.
        """
        with self._lock:
            compiled = self._compiled.get(grammar)
        if compiled is None:
            compiled = LLMatcher(self._llguidance_tokenizer(), grammar.source, log_level=0)
            if compiled.is_error():
                raise BadGrammar("the grammar cannot be used", compiled.get_error().strip().splitlines()[0])
        with self._lock:
            self._compiled[grammar] = compiled
            self._compiled.move_to_end(grammar)
            if len(self._compiled) > MOST_KEPT:
                self._compiled.popitem(last=False)
        return Matcher(compiled.deep_copy(), self._vocab_size)

    def _llguidance_tokenizer(self) -> LLTokenizer:
        if self._tokenizer is None:
            raise FoundlingError("a grammar needs a tokenizer")
        if self._known is None:
            stops = [token for token in self._tokenizer.stop_ids if token < self._tokenizer.vocab_size]
            self._known = LLTokenizer(self._tokenizer.fast.to_str(), eos_token=stops or [self._tokenizer.eot_id])
        return self._known
