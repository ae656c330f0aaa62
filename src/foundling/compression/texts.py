"""The texts that compression looks at: calibration text and held-out text, as token ids."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from foundling.compression.calibration import calibration_rows
from foundling.compression.config import CompressConfig
from foundling.compression.outside import text_file
from foundling.core.artifacts import Artifact
from foundling.core.errors import FoundlingError
from foundling.evaluation.documents import Documents
from foundling.tokenization.tokenizer import Tokenizer

CALIBRATES = 0.8  # of each text file; where there is no corpus, the rest is held out
PIECE = 512  # tokens: held-out files are compared in such pieces, as if each were a document
LONGEST_TOKEN = 8  # bytes; so that a document is not encoded far beyond what is taken of it


def calibration(config: CompressConfig, corpus: Artifact | None, tokenizer: Tokenizer, longest: int) -> Tensor:
    """(rows, length) tokens of the config's files, else of the corpus's training text.

    Raises:
        FoundlingError: there is neither, or too little text.
    """
    length = min(config.calibration_length, longest)
    wanted = config.calibration_rows * length
    if config.text:
        texts: Sequence[str] = [_parts(name)[0] if corpus is None else _read(name) for name in config.text]
    elif corpus is not None:
        texts = Documents(corpus).training(wanted * LONGEST_TOKEN, config.seed)
    else:
        raise FoundlingError(
            "this way of compressing needs calibration text",
            "the model's life has no corpus here",
            "Give --text FILES or --corpus, or use method 'search'",
        )
    documents = [[tokenizer.eot_id, *tokenizer.encode(text[: wanted * LONGEST_TOKEN])] for text in texts]
    return calibration_rows(documents, config.calibration_rows, length)


def held_out(corpus: Artifact | None, config: CompressConfig, tokenizer: Tokenizer, longest: int) -> list[list[int]]:
    """The beginnings of held-out documents, `compare_bytes` in all; without a corpus, the ends of the text files."""
    if config.compare_bytes == 0:
        return []
    if corpus is None:
        return _ends(config, tokenizer, min(longest, PIECE))
    texts, total = [], 0
    for document in Documents(corpus).shuffled("compress", config.seed):
        ids = [tokenizer.eot_id, *tokenizer.encode(document.text[: LONGEST_TOKEN * longest])][:longest]
        texts.append(ids)
        total += len(tokenizer.decode(ids).encode())
        if total >= config.compare_bytes:
            break
    return texts


def _ends(config: CompressConfig, tokenizer: Tokenizer, length: int) -> list[list[int]]:
    """Pieces of the text files' ends, as many from each."""
    pieces = []
    for name in config.text:
        text = _parts(name)[1][: config.compare_bytes // len(config.text) + 1]
        ids = tokenizer.encode(text)
        pieces += [[tokenizer.eot_id, *ids[start : start + length - 1]] for start in range(0, len(ids), length - 1)]
    return pieces


def _parts(name: str) -> tuple[str, str]:
    """A text file's beginning, and its end, which never calibrates; cut between lines if it has some."""
    text = _read(name)
    middle = int(CALIBRATES * len(text))
    at = text.rfind("\n", 0, middle) + 1 or middle
    return text[:at], text[at:]


def _read(name: str) -> str:
    return text_file(name).read_text(encoding="utf-8")
