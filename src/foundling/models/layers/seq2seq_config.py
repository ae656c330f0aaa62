"""The recurrent sequence-to-sequence stack as data. No torch here."""

from __future__ import annotations

from typing import Literal

from foundling.core.config import Config, option


class Seq2SeqConfig(Config):
    """Recurrent encoder and decoder, joined by a fixed vector or by attention."""

    vocab_size: int = option(help="rows of the shared embedding", gt=0)
    dim: int = option(help="width of the embedding", gt=0)
    hidden: int = option(help="width of the cells", gt=0)
    cell: Literal["lstm", "gru"] = option("gru", "which cell")
    attention: Literal["none", "additive", "dot"] = option(
        "additive",
        "none: a fixed vector (arXiv:1409.3215); additive: Bahdanau (arXiv:1409.0473); dot: Luong (arXiv:1508.04025)",
    )
