"""The stage `corpus`: raw sources to curated documents, split, deduplicated, decontaminated, every drop counted.

Three passes, so that memory does not grow with the text: blocks (read, rules, signatures; in parallel, resumable),
then the decisions that need all documents (on 0.5 KB a document), then the files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from foundling.core.artifacts import Draft
from foundling.core.errors import FoundlingError
from foundling.core.files import write_json
from foundling.core.stages import Inputs
from foundling.corpus import block, decide, engines, page, quality, writing
from foundling.corpus.block import Facts
from foundling.corpus.columns import Ints
from foundling.corpus.config import CorpusConfig
from foundling.corpus.decontaminate import HeldOut
from foundling.corpus.evaluation_items import read_items
from foundling.corpus.repeated import Cuts
from foundling.corpus.rules.web import domain
from foundling.corpus.signatures import Bands
from foundling.corpus.writing import Writer

_SHOWN_CLUSTERS = 12
_SHOWN_MEMBERS = 4


def build(
    config: CorpusConfig,
    inputs: Inputs,
    draft: Draft,
    *,
    held_out_prompts: Callable[[], list[str]] | None = None,
    scorer: Callable[[str], quality.BitsOf] | None = None,
) -> None:
    """Write train.parquet, validation.parquet, dropped.parquet, quarantine.jsonl, report.json and report.html.

    Args:
        held_out_prompts: gives the evaluation items that train must not hold.
        scorer: makes, from the name of a model, a function from texts to their bits per byte.

    Raises:
        FoundlingError: the data name nothing, or nothing is left of them.
    """
    items = _evaluation_items(config, held_out_prompts)
    held_out = HeldOut(items)
    scorers, learned = quality.prepare(config, scorer)
    folders = engines.run_blocks(config, held_out, scorers, draft.scratch / "blocks")
    counts = [block.read_counts(folder) for folder in folders]
    facts = Facts.load(folders)
    _refuse_empty(facts, folders, counts, config)
    fate, clusters = decide.fates(config, facts, folders, *_others(config, inputs, draft.scratch))
    train = fate == decide.TRAIN
    uses, epochs = decide.uses(config, facts, folders, train)
    cuts = Cuts(config.repeated, folders, train, draft.scratch) if config.repeated else None
    writer = Writer(draft.path, config, fate, facts.contaminated_by, items, cuts)
    given = inputs.get("held_out")
    writer.write(folders, uses, given.file("validation.parquet") if given else None)
    writing.quarantine(draft.path / "quarantine.jsonl", folders)
    report = _funnel(counts, writer, held_out) | _contents(draft.path) | {"learned": learned}
    report |= {"epochs": epochs, "phases": _phases(config, writer), "fingerprint": writer.fingerprint}
    report |= _duplication(config, clusters, folders)
    write_json(draft.path / "report.json", report)
    page.write(draft.path, report, clusters, facts.sizes)
    draft.seeds["validation"] = config.seed
    draft.metrics |= {k: report[k] for k in ("train", "validation", "read", "dropped_share", "fingerprint")}


def _evaluation_items(config: CorpusConfig, wired: Callable[[], list[str]] | None) -> list[str]:
    if not config.decontaminate:
        return []
    return [*(wired() if wired else []), *read_items(config.evaluation_sets, config.evaluation_fields)]


def _refuse_empty(
    facts: Facts, folders: Sequence[Path], counts: Sequence[Mapping[str, Any]], config: CorpusConfig
) -> None:
    if len(facts.ids):
        return
    reasons: Counter[str] = sum((Counter(count["quarantine"]) for count in counts), Counter())
    for folder in folders:
        reasons.update(pl.read_parquet(folder / "dropped.parquet", columns=["reason"])["reason"].to_list())
    why = ", ".join(f"{n} {reason}" for reason, n in reasons.most_common(6)) or "there was nothing in it"
    raise FoundlingError(f"no document of {', '.join(config.data)} is left", why, "Check the data or relax the rules")


def _others(config: CorpusConfig, inputs: Inputs, scratch: Path) -> tuple[list[Path], Path | None]:
    """Facts and signatures of (the earlier corpora, the documents that another corpus holds out)."""
    earlier = [block.sign(config.not_in, ("train", "validation"), scratch / "earlier")] if config.not_in else []
    given = inputs.get("held_out")
    return earlier, block.sign([str(given.path)], ("validation",), scratch / "held-out") if given else None


def _funnel(counts: Sequence[Mapping[str, Any]], writer: Writer, held_out: HeldOut) -> dict[str, Any]:
    """What was read, what each reason took, what is left."""
    read: Counter[str] = Counter()
    edited: dict[str, Counter[str]] = {}
    quarantine: Counter[str] = Counter()
    for count in counts:
        read.update(count["read"])
        quarantine.update(count["quarantine"])
        for name, numbers in count["edited"].items():
            edited.setdefault(name, Counter()).update(numbers)
    if writer.cut["documents"]:
        edited["repeated pieces cut"] = writer.cut
    dropped = dict(sorted(writer.dropped.items(), key=lambda item: -item[1]["documents"]))
    return {
        "read": dict(read),
        "edited": {name: dict(numbers) for name, numbers in edited.items() if numbers["documents"]},
        "dropped": dropped,
        "dropped_share": round(sum(row["documents"] for row in dropped.values()) / max(read["documents"], 1), 4),
        "quarantine": dict(quarantine.most_common()),
        "evaluation_items": {"checked": len(held_out.items) - held_out.ignored, "too_short": held_out.ignored},
        **{split: dict(size) for split, size in writer.sizes.items()},
    }


def _contents(path: Path) -> dict[str, Any]:
    """Shares of sources, languages and web domains."""
    return {
        "sources": {split: _by_source(path / f"{split}.parquet") for split in ("train", "validation")},
        "languages": _sizes_by(path / "train.parquet", pl.col("meta").str.json_path_match("$.language")),
        "domains": _sizes_by(path / "train.parquet", domain(pl.col("meta").str.json_path_match("$.url")), 50),
    }


def _phases(config: CorpusConfig, writer: Writer) -> list[dict[str, float]]:
    """The parts of the training in order: their share of the steps and what train.parquet holds for each."""
    if config.mixture is None or not config.mixture.phases:
        return []
    total = sum(phase.share for phase in config.mixture.phases)
    pairs = zip(config.mixture.phases, writer.phases, strict=True)
    return [{"share": round(phase.share / total, 6), **size} for phase, size in pairs]


def _duplication(config: CorpusConfig, clusters: Ints, folders: Sequence[Path]) -> dict[str, Any]:
    """How many near duplicates there are, how likely the search finds a pair, and the largest clusters to look at."""
    if not config.near_duplicates:
        return {"near_duplicates": {}}
    first, members = np.unique(clusters, return_counts=True)
    largest = first[np.argsort(-members, kind="stable")][:_SHOWN_CLUSTERS]
    shown = {int(c): np.flatnonzero(clusters == c).tolist() for c in largest if members[first == c] > 1}
    beginnings = _beginnings(folders, sorted(n for numbers in shown.values() for n in numbers[:_SHOWN_MEMBERS]))
    bands = Bands.for_threshold(config.near_duplicates)
    recall = {f"{s / 20:.2f}": round(bands.recall(s / 20), 4) for s in range(10, 21)}
    numbers = {"threshold": config.near_duplicates, "bands": bands.count, "rows": bands.rows, "recall": recall}
    examples = [
        {"documents": len(found), "members": [beginnings[n] for n in found[:_SHOWN_MEMBERS]]}
        for found in shown.values()
    ]
    return {"near_duplicates": {**numbers, "clusters": int((members > 1).sum()), "examples": examples}}


def _beginnings(folders: Sequence[Path], wanted: Sequence[int]) -> dict[int, dict[str, str]]:
    """The source and the first characters of the documents of these numbers, in order."""
    found: dict[int, dict[str, str]] = {}
    start = 0
    for folder in folders:
        count = (folder / "facts.i64").stat().st_size // block.FACT_BYTES
        if not any(start <= number < start + count for number in wanted):
            start += count
            continue
        for rows in block.rows_of(folder / "documents.parquet"):
            here = [number - start for number in wanted if start <= number < start + len(rows)]
            shown = rows[here].select("id", "source", pl.col("text").str.slice(0, 160)).to_dicts()
            found |= {start + number: row for number, row in zip(here, shown, strict=True)}
            start += len(rows)
    return found


def _sizes_by(path: Path, value: pl.Expr, most: int = 1000) -> dict[str, int]:
    """Bytes of each value, where documents have one; the largest first."""
    sizes = pl.scan_parquet(path).select(
        value.alias("value"), pl.col("text").str.len_bytes().cast(pl.Int64).alias("bytes")
    )
    grouped = sizes.drop_nulls().group_by("value").sum().sort("bytes", "value", descending=[True, False])
    return dict(grouped.head(most).collect().iter_rows())


def _by_source(path: Path) -> dict[str, dict[str, int]]:
    sizes = (
        pl.scan_parquet(path)
        .group_by("source")
        .agg(pl.len().alias("documents"), pl.col("text").str.len_bytes().sum().cast(pl.Int64).alias("bytes"))
        .sort("bytes", "source", descending=[True, False])
        .collect()
    )
    return {row.pop("source"): row for row in sizes.to_dicts()}
