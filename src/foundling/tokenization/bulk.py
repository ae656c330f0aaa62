"""Encoding many texts at hardware speed: `gigatoken`, as long as it gives `tokenizers`' ids."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from foundling.core import progress
from foundling.tokenization.tokenizer import Tokenizer

_SAMPLE_TEXTS = 200
_SAMPLE_CHARACTERS = 20_000
Ids = NDArray[np.uint32]
Lengths = NDArray[np.int64]


class BulkEncoder:
    """Encodes batches to flat arrays; control tokens in a text stay ordinary text, as in `Tokenizer.encode`.

    Args:
        fast: try `gigatoken`. Where it is not installed, does not know the tokenizer, or differs from `tokenizers`
            on `check`, everything goes through `tokenizers`.
    """

    def __init__(self, tokenizer: Tokenizer, *, fast: bool = True) -> None:
        self._tokenizer = tokenizer
        self._fast = _load_fast(tokenizer) if fast else None

    @property
    def is_fast(self) -> bool:
        """Whether `gigatoken` does the work."""
        return self._fast is not None

    def check(self, texts: Sequence[str]) -> bool:
        """Compare both encoders on texts evenly spread and the longest ones; drop the fast one if they differ.

        Returns whether the fast one is still in use.
        """
        if self._fast is None:
            return False
        every = max(1, len(texts) // _SAMPLE_TEXTS)
        sample = [*texts[::every], *sorted(texts, key=len)[-3:]]
        sample = [text[:_SAMPLE_CHARACTERS] for text in sample]
        ids, lengths = self.encode(sample)
        expected = self._tokenizer.encode_batch(sample)
        if lengths.tolist() != [len(e) for e in expected] or ids.tolist() != [i for e in expected for i in e]:
            progress.say("warning: gigatoken differs from tokenizers on this text and is not used")
            self._fast = None
        return self.is_fast

    def encode(self, texts: Sequence[str]) -> tuple[Ids, Lengths]:
        """((tokens,) ids of all texts one after another, (texts,) how many each has)."""
        if self._fast is None:
            encoded = self._tokenizer.encode_batch(texts)
            lengths = np.fromiter(map(len, encoded), np.int64, len(encoded))
            return np.concatenate([np.zeros(0, np.uint32), *(np.array(e, np.uint32) for e in encoded)]), lengths
        if not len(texts):
            return np.zeros(0, np.uint32), np.zeros(0, np.int64)
        layout = self._fast.encode_batch(list(texts)).layout.to_ListOffsetArray64(True)
        offsets = np.asarray(layout.offsets.data)
        return np.asarray(layout.content.data)[offsets[0] : offsets[-1]], np.diff(offsets)


def _load_fast(tokenizer: Tokenizer):  # type: ignore[no-untyped-def]
    """A `gigatoken` tokenizer that has no control tokens to recognise, or None."""
    if platform.system() not in ("Linux", "Darwin"):
        return None
    import gigatoken

    description = json.loads(tokenizer.fast.to_str())
    description["added_tokens"] = [t for t in description.get("added_tokens", []) if not t["special"]]
    try:
        return gigatoken.Tokenizer.from_json(json.dumps(description))
    except (ValueError, NotImplementedError, RuntimeError):  # a kind of tokenizer that it does not know
        return None
