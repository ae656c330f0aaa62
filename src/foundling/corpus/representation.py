"""Who a corpus speaks for: each language's share of the world's people against its share of the text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

WORLD_MILLIONS = 8000.0
# Speakers in millions (first and second language; Ethnologue 2022-23, as quoted by Huyen 2024, "AI Engineering",
# table 2-2), by ISO 639-3 and 639-1 code.
SPEAKERS_MILLIONS: dict[str, tuple[str, str, float]] = {
    "eng": ("en", "English", 1452),
    "cmn": ("zh", "Mandarin Chinese", 1118),
    "hin": ("hi", "Hindi", 602),
    "spa": ("es", "Spanish", 548),
    "fra": ("fr", "French", 280),
    "arb": ("ar", "Standard Arabic", 274),
    "ben": ("bn", "Bengali", 272),
    "rus": ("ru", "Russian", 258),
    "por": ("pt", "Portuguese", 257),
    "urd": ("ur", "Urdu", 231),
    "ind": ("id", "Indonesian", 199),
    "deu": ("de", "German", 134),
    "jpn": ("ja", "Japanese", 125),
    "pan": ("pa", "Punjabi", 113),
    "mar": ("mr", "Marathi", 99),
    "tel": ("te", "Telugu", 95),
    "tur": ("tr", "Turkish", 88),
    "tam": ("ta", "Tamil", 86),
    "vie": ("vi", "Vietnamese", 85),
    "swa": ("sw", "Swahili", 71),
    "kan": ("kn", "Kannada", 64),
    "guj": ("gu", "Gujarati", 62),
    "amh": ("am", "Amharic", 57),
    "mya": ("my", "Burmese", 43),
}
_ALSO = {"zho": "cmn", "ara": "arb", "swh": "swa", "pnb": "pan"}  # other codes in use for the same row


@dataclass(frozen=True)
class Row:
    """A language's line of the table; shares are fractions of one. `ratio` over 1: fewer pages than people."""

    code: str
    language: str
    speakers_millions: float
    world_share: float
    corpus_share: float

    @property
    def ratio(self) -> float:
        """Share of the world's people over share of the corpus; infinite if the corpus has none."""
        return self.world_share / self.corpus_share if self.corpus_share else float("inf")


def representation(shares: Mapping[str, float], speakers: Mapping[str, float] | None = None) -> list[Row]:
    """The under-representation table, worst first.

    Args:
        shares: language code (ISO 639-1 or -3) -> share of the corpus, as a fraction.
        speakers: code -> millions of speakers; the large languages' if not given.
    """
    by_code = {_code(code): 0.0 for code in shares}
    for code, share in shares.items():
        by_code[_code(code)] += share
    people = {_code(c): n for c, n in speakers.items()} if speakers else {c: r[2] for c, r in SPEAKERS_MILLIONS.items()}
    rows = []
    for code, millions in people.items():
        name = SPEAKERS_MILLIONS[code][1] if code in SPEAKERS_MILLIONS else code
        rows.append(Row(code, name, millions, millions / WORLD_MILLIONS, by_code.get(code, 0.0)))
    return sorted(rows, key=lambda row: (-row.ratio, row.code))


def _code(code: str) -> str:
    code = _ALSO.get(code, code)
    return next((long for long, (short, _, _) in SPEAKERS_MILLIONS.items() if short == code), code)
