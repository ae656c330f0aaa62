"""The verb `fairness`: what tokenizers cost the speakers of each language."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.table import Table

from foundling.core import progress
from foundling.core.artifacts import Store
from foundling.core.errors import FoundlingError, nearest
from foundling.core.lives import artifact_of
from foundling.models.locate import locate
from foundling.tokenization.fairness import as_rows, read_parallel, summary, vocabulary_effect, write_page
from foundling.tokenization.fairness import fairness as measure
from foundling.tokenization.tokenizer import Tokenizer

_SHOWN = 12
_LITTLE = 0.1


def fairness(
    tokenizers: Annotated[list[str], Parameter(negative="")],
    *,
    parallel: Path,
    reference: str = "eng",
    languages: Annotated[list[str] | None, Parameter(consume_multiple=True, negative="")] = None,
    what_if: Annotated[list[int] | None, Parameter(consume_multiple=True, negative="")] = None,
    html: Path = Path("fairness.html"),
    store: str | None = None,
    json: bool = False,
) -> None:
    """What tokenizers cost the speakers of each language.

    Tokens for the same content: price and latency grow with them, and the context window shrinks by them.

    Args:
        tokenizers: tokenizers or models: a path, life/stage, key, package or hub id.
        parallel: JSON lines of the same texts in many languages: {"lang", "text"}, or with each text's translation
            {"lang", "text", "eng"}.
        reference: the language to compare with.
        languages: only these.
        what_if: also train tokenizers of these vocabulary sizes on the text, with little of the other languages
            and with all languages equal, and measure them on what they have not seen.
        html: the page to write.
        json: print one JSON document instead of text.
    """
    progress.set_quiet(json)
    if not parallel.is_file():
        raise FoundlingError(f"there is no file {parallel}", "--parallel names the same texts in many languages")
    texts, beside = read_parallel(parallel, reference)
    if languages:
        missing = [language for language in languages if language not in texts]
        if missing:
            why = f"there are {len(texts)} languages, among them {', '.join(sorted(texts)[:_SHOWN])}"
            raise FoundlingError(f"no text in {', '.join(missing)}", why, nearest(missing[0], texts))
        texts = {language: texts[language] for language in dict.fromkeys([*languages, reference])}
    loaded = {name: _tokenizer(name, Store(store)) for name in tokenizers}
    costs = measure(loaded, texts, reference, beside)
    if what_if:
        shares = {
            f"mostly {reference}": {language: 1.0 if language == reference else _LITTLE for language in texts},
            "all equal": dict.fromkeys(texts, 1.0),
        }
        costs += vocabulary_effect(texts, what_if, shares, reference)
    write_page(costs, html)
    if json:
        print(json_module.dumps({"costs": as_rows(costs), "page": str(html)}))
        return
    for row in summary(costs):
        progress.console.print(
            f"[bold]{row[0]}[/]: {row[1]} languages, premium {row[2]} in the middle, {row[3]} at most"
        )
    table = Table(box=None, pad_edge=False)
    for column in ("tokenizer", "language", "tokens/text", "premium", "bytes/token", "window left"):
        table.add_column(column, justify="left" if column in ("tokenizer", "language") else "right")
    for name in dict.fromkeys(cost.tokenizer for cost in costs):
        for cost in [c for c in costs if c.tokenizer == name][:_SHOWN]:
            numbers = (f"{cost.tokens_per_sentence:.1f}", f"{cost.premium:.2f}x", f"{cost.bytes_per_token:.2f}")
            table.add_row(name, cost.language, *numbers, f"{cost.context_share:.0%}")
    progress.console.print(table)
    progress.console.print(f"The dearest {_SHOWN} of each; all of them are in {html}")


def _tokenizer(name: str, store: Store) -> Tokenizer:
    path = Path(name).expanduser()
    if not path.exists():
        found = artifact_of(store, name, "tokenizer")
        path = found.path if found else locate(name)
    return Tokenizer.load(path.parent if path.is_file() else path)
