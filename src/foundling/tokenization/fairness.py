"""What a tokenizer costs the speakers of each language, on parallel text (Petrov et al. 2023; Ahia et al. 2023)."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from foundling.core.errors import FoundlingError, nearest
from foundling.core.report import Page, figure, new_figure, table
from foundling.tokenization.config import TokenizerConfig
from foundling.tokenization.tokenizer import Tokenizer
from foundling.tokenization.train import train


@dataclass(frozen=True)
class Cost:
    """A tokenizer on one language's side of a parallel text.

    Attributes:
        premium: tokens for one token of the reference language; also the multiplier of price and of latency, since
            both are paid by the token.
        context_share: how much of the reference's content fits into the same context window, 1 / premium.
    """

    tokenizer: str
    language: str
    sentences: int
    tokens_per_sentence: float
    premium: float
    bytes_per_token: float
    characters_per_token: float
    context_share: float


Texts = Mapping[str, Sequence[str]]


def fairness(
    tokenizers: Mapping[str, Tokenizer], parallel: Texts, reference: str = "eng", beside: Texts | None = None
) -> list[Cost]:
    """Costs of every tokenizer on every language, the dearest first.

    Args:
        parallel: language -> the same sentences (or documents) in that language.
        beside: language -> what its texts are in the reference language, where each language has sentences of its own.

    Raises:
        FoundlingError: the reference is not among the languages, or texts are missing or empty.
    """
    if reference not in parallel:
        raise FoundlingError(f"no text in the reference language {reference!r}", "", nearest(reference, parallel))
    empty = [language for language, texts in parallel.items() if not any(texts)]
    if empty:
        raise FoundlingError(f"no text in {', '.join(empty[:5])}")
    costs = []
    for name, tokenizer in tokenizers.items():
        base = _tokens(tokenizer, parallel[reference])
        for language, texts in parallel.items():
            theirs = beside[language] if beside and language in beside else None
            costs.append(_cost(name, language, texts, tokenizer, _tokens(tokenizer, theirs) if theirs else base))
    return sorted(costs, key=lambda cost: (cost.tokenizer, -cost.premium, cost.language))


def read_parallel(path: Path, reference: str) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """(language -> texts, language -> the same texts in the reference language) from JSON lines, also compressed.

    Rows are {"lang": ..., "text": ...}, where all languages have the same texts in the same order, or those and the
    reference's translation under its own name: {"lang": "ne", "text": ..., "en": ...}.

    Raises:
        FoundlingError: a row is not understood, or a language has another number of texts than the reference.
    """
    texts: dict[str, list[str]] = {}
    beside: dict[str, list[str]] = {}
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                row = json.loads(line)
                texts.setdefault(row["lang"], []).append(row["text"])
                if reference in row:
                    beside.setdefault(row["lang"], []).append(row[reference])
            except (ValueError, KeyError, TypeError):
                what = f"{path}: line {number} is no parallel text"
                raise FoundlingError(what, f'expected {{"lang": ..., "text": ...}} and perhaps "{reference}"') from None
    if beside and reference not in texts:
        texts[reference] = list(dict.fromkeys(text for own in beside.values() for text in own))
    for language in texts:
        wanted = len(beside[language]) if language in beside else len(texts.get(reference, texts[language]))
        if len(texts[language]) != wanted and not (beside and language == reference):
            what = f"{path}: {language} has {len(texts[language])} texts where {reference} has {wanted}"
            raise FoundlingError(what, "a premium compares the same content")
    return texts, beside


def vocabulary_effect(
    parallel: Texts, sizes: Sequence[int], shares: Mapping[str, Mapping[str, float]], reference: str = "eng"
) -> list[Cost]:
    """What a bigger or a rebalanced vocabulary would change: tokenizers trained for the question on half of each
    language's lines, and measured on the other half.

    Args:
        sizes: vocabulary sizes to try.
        shares: name of a mixture -> language -> how many times its text is given to the trainer (fractions cut it).
    """
    lines = {language: "\n".join(texts).splitlines(keepends=True) for language, texts in parallel.items()}
    held_out = {language: ["".join(own[1::2])] for language, own in lines.items()}
    made = {}
    for mixture, weights in shares.items():
        texts = [text for language, weight in weights.items() for text in _weighted(lines[language][::2], weight)]
        for size in sizes:
            made[f"{mixture}, {size} tokens"] = train(iter(texts), TokenizerConfig(vocab_size=size))
    return fairness(made, held_out, reference)


def write_page(costs: Sequence[Cost], path: Path) -> None:
    """The costs as an HTML page with a plot."""
    page = Page("Tokenizer fairness", "tokens for the same content, by language")
    names = sorted({cost.tokenizer for cost in costs})
    note = "Premium: tokens for one token of the reference language, which multiply price and latency."
    glance = table(["tokenizer", "languages", "median", "dearest", "cheapest"], summary(costs))
    page.section("At a glance", glance, note=note)
    order = sorted({c.language for c in costs}, key=lambda lang: min(c.premium for c in costs if c.language == lang))
    fig, axes = new_figure(7, max(3.0, 0.16 * len(order)))
    for name in names:
        by_language = {cost.language: cost.premium for cost in costs if cost.tokenizer == name}
        axes.plot([by_language[language] for language in order], range(len(order)), "o", markersize=3, label=name)
    axes.set_yticks(range(len(order)), order, fontsize=6)
    axes.set_xlabel("tokens for each token of the reference language")
    axes.legend(loc="lower right")
    columns = ["tokenizer", "language", "tokens per sentence", "premium", "bytes per token", "window left"]
    rows = [[c.tokenizer, c.language, f"{c.tokens_per_sentence:.1f}", f"{c.premium:.2f}x", f"{c.bytes_per_token:.2f}",
             f"{c.context_share:.0%}"] for c in costs]  # fmt: skip
    page.section("Premium", figure(fig, "Token premium of each language"), note="Price and latency grow with it.")
    page.section("All numbers", table(columns, rows))
    page.write(path)


def summary(costs: Sequence[Cost]) -> list[list[str]]:
    """For each tokenizer: how many languages, and the median, largest and smallest premium."""
    rows = []
    for name in sorted({cost.tokenizer for cost in costs}):
        own = sorted((cost.premium, cost.language) for cost in costs if cost.tokenizer == name)
        middle, most, least = own[len(own) // 2], own[-1], own[0]
        rows.append([name, str(len(own)), f"{middle[0]:.2f}x", *(f"{p:.2f}x ({lang})" for p, lang in (most, least))])
    return rows


def as_rows(costs: Sequence[Cost]) -> list[dict[str, Any]]:
    """The costs as plain data."""
    return [asdict(cost) for cost in costs]


def _tokens(tokenizer: Tokenizer, texts: Sequence[str]) -> float:
    """Mean tokens of a text."""
    return sum(map(len, tokenizer.encode_batch(texts))) / len(texts)


def _cost(name: str, language: str, texts: Sequence[str], tokenizer: Tokenizer, reference_tokens: float) -> Cost:
    per_sentence = _tokens(tokenizer, texts)
    premium = per_sentence / reference_tokens
    tokens = max(per_sentence * len(texts), 1)
    return Cost(
        tokenizer=name,
        language=language,
        sentences=len(texts),
        tokens_per_sentence=round(per_sentence, 3),
        premium=round(premium, 4),
        bytes_per_token=round(sum(len(text.encode()) for text in texts) / tokens, 4),
        characters_per_token=round(sum(map(len, texts)) / tokens, 4),
        context_share=round(1 / premium, 4) if premium else 0.0,
    )


def _weighted(texts: Sequence[str], weight: float) -> list[str]:
    whole, rest = divmod(weight, 1)
    return [*(list(texts) * int(whole)), *texts[: round(rest * len(texts))]]
