"""Reading a tokens artifact: one memory-mapped stream of documents per split."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from foundling.core.errors import FoundlingError


class TokenSplit:
    """A split of a tokens artifact. Each document is stored as [end-of-text] + its ids.

    Attributes:
        stream: (tokens,) the documents one after another, memory-mapped.
        starts: (documents + 1,) int64 offsets into the stream.
        bytes: (documents,) int64 UTF-8 bytes of each document.
        sources: their names; `source` (documents,) says which each document is from. Both are empty in older files.
        phases: the (share of the rows, tokens) of a curriculum's parts, in order; empty without one.
        planned_rows: the rows that training will take in all; a curriculum's shares are shares of them.
    """

    def __init__(self, directory: Path, split: str, planned_rows: int = 0) -> None:
        meta = _read_meta(directory)
        if split not in meta["splits"]:
            raise FoundlingError(
                f"tokens {directory.name} have no split {split!r}", f"splits: {', '.join(meta['splits'])}"
            )
        self.name = split
        self.vocab_size: int = meta["vocab_size"]
        self.eot_id: int = meta["eot_id"]
        listed = meta.get("phases", []) if split == "train" and planned_rows else []
        self.phases = [(float(phase["share"]), int(phase["tokens"])) for phase in listed]
        self.planned_rows = planned_rows
        self.starts: NDArray[np.int64] = np.load(directory / f"{split}.index.npy")
        self.bytes: NDArray[np.int64] = np.load(directory / f"{split}.bytes.npy")
        self.sources: list[str] = meta.get("source_names", {}).get(split, [])
        self.source: NDArray[np.int32] = (
            np.load(directory / f"{split}.source.npy") if self.sources else np.zeros(0, np.int32)
        )
        file = directory / f"{split}.bin"
        if not file.stat().st_size:
            raise FoundlingError(f"split {split!r} of tokens {directory.name} is empty", "there is nothing to train on")
        self.stream: NDArray[np.unsignedinteger] = np.memmap(
            file, dtype=np.dtype(meta["dtype"]).newbyteorder("<"), mode="r"
        )
        if len(self.stream) != self.starts[-1]:
            what = f"{file} holds {len(self.stream)} tokens where its index says {self.starts[-1]}"
            raise FoundlingError(what, fix="Tokenize the corpus again")

    def window(self, start: int, length: int) -> NDArray[np.int64]:
        """Tokens [start, start + length) of the stream as int64."""
        return self.stream[start : start + length].astype(np.int64)

    def document(self, index: int) -> NDArray[np.int64]:
        """One document's tokens, its end-of-text first."""
        return self.window(int(self.starts[index]), int(self.starts[index + 1] - self.starts[index]))

    def at(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """The tokens at these positions of the stream, in their shape; end-of-text where a position lies outside it."""
        inside = (positions >= 0) & (positions < len(self.stream))
        return np.where(inside, self.stream[np.where(inside, positions, 0)].astype(np.int64), self.eot_id)

    def documents_of(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """The index of the document at each of these positions of the stream, in their shape."""
        return np.searchsorted(self.starts, positions, side="right") - 1

    def name_of(self, start: int, length: int) -> str:
        """The documents of a window, for messages: "train documents 12-14 (tokens 8192-8448)"."""
        first, last = self.documents_of(np.array([start, start + length - 1]))
        documents = f"document {first}" if first == last else f"documents {first}-{last}"
        return f"{self.name} {documents} (tokens {start}-{start + length})"


def _read_meta(directory: Path) -> dict:  # type: ignore[type-arg]
    file = directory / "tokens.json"
    if not file.is_file():
        raise FoundlingError(
            f"{directory} holds no tokens", "it has no tokens.json", "Make one with `foundling tokenize`"
        )
    meta: dict = json.loads(file.read_text(encoding="utf-8"))  # type: ignore[type-arg]
    return meta
