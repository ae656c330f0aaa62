"""What a tokenizer costs the speakers of each language, on parallel text (Petrov et al. 2023; Ahia et al. 2023)."""

from __future__ import annotations

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


def fairness(
    tokenizers: Mapping[str, Tokenizer], parallel: Mapping[str, Sequence[str]], reference: str = "eng"
) -> list[Cost]:
    """Costs of every tokenizer on every language, the dearest first.

    Args:
        parallel: language -> the same sentences (or documents) in that language.

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
        counts = {language: sum(map(len, tokenizer.encode_batch(texts))) for language, texts in parallel.items()}
        base = counts[reference] / len(parallel[reference])
        costs += [_cost(name, language, parallel[language], counts[language], base) for language in parallel]
    return sorted(costs, key=lambda cost: (cost.tokenizer, -cost.premium, cost.language))


def vocabulary_effect(
    parallel: Mapping[str, Sequence[str]],
    sizes: Sequence[int],
    shares: Mapping[str, Mapping[str, float]],
    reference: str = "eng",
) -> list[Cost]:
    """What a bigger or a rebalanced vocabulary would change: tokenizers trained for the question.

    Args:
        sizes: vocabulary sizes to try.
        shares: name of a mixture -> language -> how many times its text is given to the trainer (fractions cut it).
    """
    made = {}
    for mixture, weights in shares.items():
        texts = [text for language, weight in weights.items() for text in _weighted(parallel[language], weight)]
        for size in sizes:
            made[f"{mixture}, {size} tokens"] = train(iter(texts), TokenizerConfig(vocab_size=size))
    return fairness(made, parallel, reference)


def write_page(costs: Sequence[Cost], path: Path) -> None:
    """The costs as an HTML page with a plot."""
    page = Page("Tokenizer fairness", "tokens for the same content, by language")
    names = sorted({cost.tokenizer for cost in costs})
    order = sorted({c.language for c in costs}, key=lambda lang: min(c.premium for c in costs if c.language == lang))
    fig, axes = new_figure(7, max(3.0, 0.16 * len(order)))
    for name in names:
        by_language = {cost.language: cost.premium for cost in costs if cost.tokenizer == name}
        axes.plot([by_language[language] for language in order], range(len(order)), "o", markersize=3, label=name)
    axes.set_yticks(range(len(order)), order, fontsize=6)
    axes.set_xlabel("tokens for each token of the reference language")
    axes.legend(loc="lower right")
    columns = ["tokenizer", "language", "tokens per sentence", "premium", "bytes per token", "window left"]
    rows = [[c.tokenizer, c.language, c.tokens_per_sentence, f"{c.premium:.2f}x", c.bytes_per_token,
             f"{c.context_share:.0%}"] for c in costs]  # fmt: skip
    page.section("Premium", figure(fig, "Token premium of each language"), note="Price and latency grow with it.")
    page.section("All numbers", table(columns, rows))
    page.write(path)


def as_rows(costs: Sequence[Cost]) -> list[dict[str, Any]]:
    """The costs as plain data."""
    return [asdict(cost) for cost in costs]


def _cost(name: str, language: str, texts: Sequence[str], tokens: int, reference_per_sentence: float) -> Cost:
    per_sentence = tokens / len(texts)
    premium = per_sentence / reference_per_sentence
    n_bytes = sum(len(text.encode()) for text in texts)
    return Cost(
        tokenizer=name,
        language=language,
        sentences=len(texts),
        tokens_per_sentence=round(per_sentence, 3),
        premium=round(premium, 4),
        bytes_per_token=round(n_bytes / max(tokens, 1), 4),
        characters_per_token=round(sum(map(len, texts)) / max(tokens, 1), 4),
        context_share=round(1 / premium, 4) if premium else 0.0,
    )


def _weighted(texts: Sequence[str], weight: float) -> list[str]:
    whole, rest = divmod(weight, 1)
    return [*(list(texts) * int(whole)), *texts[: round(rest * len(texts))]]
