"""The text of a growing continuation: complete characters only, ended by stop strings that may straddle tokens."""

from __future__ import annotations

from foundling.tokenization.tokenizer import TextStream, Tokenizer


class StopText:
    """Detokenizes one sequence and watches for stop strings.

    Args:
        stop: strings that end the text; the text ends before the first that appears.
    """

    def __init__(self, tokenizer: Tokenizer, stop: tuple[str, ...] = ()) -> None:
        self._stream, self._stop, self._vocab_size = TextStream(tokenizer), stop, tokenizer.vocab_size
        self._shown: list[str] = []
        self._held = ""  # may turn out to be the beginning of a stop string
        self.stopped = False

    @property
    def text(self) -> str:
        """Everything shown so far."""
        return "".join(self._shown)

    def push(self, token: int) -> str:
        """Add a token; returns the text that can be shown now. Sets `stopped` when a stop string is complete."""
        # A model's embedding is often padded beyond the vocabulary: such a token has no text.
        return self._add(self._stream.push(token) if token < self._vocab_size else "")

    def flush(self) -> str:
        """The rest, once no more tokens come."""
        shown = self._add(self._stream.flush())
        if not self.stopped:
            shown += self._show(self._held)
            self._held = ""
        return shown

    def _add(self, piece: str) -> str:
        if self.stopped:
            return ""
        text = self._held + piece
        ends = [at for at in map(text.find, self._stop) if at >= 0]
        if ends:
            self.stopped = True
            self._held = ""
            return self._show(text[: min(ends)])
        keep = self._open_suffix(text) if self._stop else 0
        self._held = text[len(text) - keep :]
        return self._show(text[: len(text) - keep])

    def _show(self, text: str) -> str:
        if text:
            self._shown.append(text)
        return text

    def _open_suffix(self, text: str) -> int:
        """Length of the longest end of `text` that a stop string begins with."""
        longest = min(len(text), max(map(len, self._stop)) - 1)
        for length in range(longest, 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stop):
                return length
        return 0
