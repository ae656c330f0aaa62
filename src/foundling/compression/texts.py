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

LONGEST_TOKEN = 8  # bytes; so that a document is not encoded far beyond what is taken of it


def calibration(config: CompressConfig, corpus: Artifact | None, tokenizer: Tokenizer, longest: int) -> Tensor:
    """(rows, length) tokens of the config's files, else of the corpus's training text.

    Raises:
        FoundlingError: there is neither, or too little text.
    """
    length = min(config.calibration_length, longest)
    wanted = config.calibration_rows * length
    if config.text:
        texts: Sequence[str] = [text_file(name).read_text(encoding="utf-8") for name in config.text]
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
    """The beginnings of held-out documents, `compare_bytes` in all; none without a corpus."""
    if corpus is None or config.compare_bytes == 0:
        return []
    texts, total = [], 0
    for document in Documents(corpus).shuffled("compress", config.seed):
        ids = [tokenizer.eot_id, *tokenizer.encode(document.text[: LONGEST_TOKEN * longest])][:longest]
        texts.append(ids)
        total += len(tokenizer.decode(ids).encode())
        if total >= config.compare_bytes:
            break
    return texts
