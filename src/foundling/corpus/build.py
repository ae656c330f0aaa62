"""The stage `corpus`: raw sources to curated documents, split, deduplicated, decontaminated, every drop counted.

Three passes, so that memory does not grow with the text: blocks (read, rules, signatures; in parallel, resumable),
then the decisions that need all documents (on 0.5 KB a document), then the files.
"""

from __future__ import annotations

import fnmatch
import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet
from numpy.typing import NDArray

from foundling.core.artifacts import Draft
from foundling.core.errors import FoundlingError, nearest
from foundling.core.files import write_json
from foundling.core.stages import Inputs
from foundling.corpus import block, duplicates, engines, mixture, page, quality, splits
from foundling.corpus.block import Facts
from foundling.corpus.columns import Ints
from foundling.corpus.config import CorpusConfig
from foundling.corpus.decontaminate import HeldOut
from foundling.corpus.documents import SCHEMA
from foundling.corpus.rules.rule import explain
from foundling.corpus.signatures import PERMUTATIONS, Signatures

# What becomes of a document; the order is that of REASONS.
TRAIN, VALIDATION, EXACT, NEAR, CONTAMINATED = range(5)
REASONS = {EXACT: "exact duplicate", NEAR: "near duplicate", CONTAMINATED: "contaminated: holds an evaluation prompt"}
_EXAMPLES = 3


def build(
    config: CorpusConfig, inputs: Inputs, draft: Draft, *, held_out_prompts: Callable[[], list[str]] | None = None
) -> None:
    """Write train.parquet, validation.parquet, dropped.parquet, quarantine.jsonl, report.json and report.html.

    Args:
        held_out_prompts: gives the evaluation items that train must not hold.

    Raises:
        FoundlingError: the data name nothing, or nothing is left of them.
    """
    items = held_out_prompts() if held_out_prompts and config.decontaminate else []
    held_out = HeldOut(items)
    scorers, learned = quality.prepare(config)
    folders = engines.run_blocks(config, held_out, scorers, draft.scratch / "blocks")
    counts = [block.read_counts(folder) for folder in folders]
    facts = Facts.load(folders)
    _refuse_empty(facts, folders, counts, config)
    fate, clusters = _decide(config, facts, folders, _earlier(config, draft.scratch))
    leaks = pl.Series([*items, ""], dtype=pl.String)[facts.contaminated_by]
    uses, epochs = _mix(config, facts, folders, fate == TRAIN)
    _write_documents(draft.path, folders, fate, uses, leaks)
    _write_quarantine(draft.path / "quarantine.jsonl", folders)
    report = _report(draft.path, counts, facts, fate, held_out)
    report |= {"learned": learned, "epochs": epochs}
    write_json(draft.path / "report.json", report)
    page.write(draft.path, report, clusters, facts.sizes)
    draft.seeds["validation"] = config.seed
    draft.metrics |= {k: report[k] for k in ("train", "validation", "read", "dropped_share")}


def _refuse_empty(facts: Facts, folders: list[Path], counts: list[dict[str, Any]], config: CorpusConfig) -> None:
    if len(facts.ids):
        return
    reasons: Counter[str] = sum((Counter(count["quarantine"]) for count in counts), Counter())
    for folder in folders:
        reasons.update(pl.read_parquet(folder / "dropped.parquet")["reason"].to_list())
    why = ", ".join(f"{n} {reason}" for reason, n in reasons.most_common(6)) or "there was nothing in it"
    raise FoundlingError(f"no document of {', '.join(config.data)} is left", why, "Check the data or relax the rules")


def _earlier(config: CorpusConfig, scratch: Path) -> list[Path]:
    return [block.sign_earlier(config, scratch)] if config.not_in else []


def _decide(
    config: CorpusConfig, facts: Facts, folders: list[Path], earlier: list[Path]
) -> tuple[NDArray[np.int8], Ints]:
    """((documents,) the fate of each, (documents,) its cluster of near duplicates).

    Args:
        earlier: directories with facts and signatures of earlier corpora; their documents come first, so they stay.
    """
    everything = Facts.load([*earlier, *folders])
    old = len(everything.ids) - len(facts.ids)
    fate = np.full(len(facts.ids), TRAIN, np.int8)
    fate[duplicates.exact(everything.ids.view(np.uint64))[old:]] = EXACT
    alive = fate == TRAIN
    signed = _all_signatures([*earlier, *folders], folders[0].parent)
    clusters = np.arange(len(fate))
    if config.near_duplicates:
        among = np.concatenate([np.ones(old, bool), alive]) & (everything.comparable > 0)
        clusters = duplicates.near_clusters(signed, config.near_duplicates, among)
        fate[alive & ~duplicates.choose(clusters)[old:]] = NEAR
        alive = fate == TRAIN
        clusters = clusters[old:]
    signed = signed[old:]
    similar = np.arange(len(fate))
    if config.same_side:
        similar = duplicates.near_clusters(signed, config.same_side, alive & (facts.comparable > 0))
    eligible = _eligible(config, folders)
    if config.validation_bytes:
        index = np.flatnonzero(alive)
        ids, sizes = facts.ids.view(np.uint64)[index], facts.sizes[index]
        fate[index[splits.validation(config, ids, sizes, similar[index], eligible[index])]] = VALIDATION
    fate[(fate == TRAIN) & (facts.contaminated_by >= 0)] = CONTAMINATED
    return fate, clusters


def _all_signatures(folders: list[Path], scratch: Path) -> Signatures:
    """(documents, PERMUTATIONS) the signatures of all blocks, on disk: half a kilobyte a document."""
    path = scratch / "signatures.u32"
    with path.open("wb") as file:
        for folder in folders:
            with (folder / "signatures.u32").open("rb") as part:
                shutil.copyfileobj(part, file)
    if not path.stat().st_size:
        return np.zeros((0, PERMUTATIONS), np.uint32)
    return np.memmap(path, np.uint32, "r").reshape(-1, PERMUTATIONS)


def _eligible(config: CorpusConfig, folders: list[Path]) -> NDArray[np.bool_]:
    wanted = config.validation_source
    sources = pl.concat([pl.read_parquet(f / "documents.parquet", columns=["source"]) for f in folders])["source"]
    if wanted is None:
        return np.ones(len(sources), bool)
    names = sources.unique().sort().to_list()
    matching = fnmatch.filter(names, wanted)
    if not matching:
        options = f"sources: {', '.join(names[:8])}"
        raise FoundlingError(f"no source is {wanted!r} (validation_source)", options, nearest(wanted, names))
    return sources.is_in(matching).to_numpy()


def _mix(
    config: CorpusConfig, facts: Facts, folders: list[Path], train: NDArray[np.bool_]
) -> tuple[Ints, dict[str, float]]:
    """((documents,) how often each training document is used, epochs of each group)."""
    if config.mixture is None:
        return train.astype(np.int64), {}
    column = pl.col("source") if config.mixture.by == "source" else pl.col("meta").str.json_path_match("$.language")
    files = [folder / "documents.parquet" for folder in folders]
    groups = pl.scan_parquet(files).select(column.fill_null("").alias("group")).collect()["group"].to_numpy()
    names = sorted(set(groups[train].tolist()))
    sizes = {name: int(facts.sizes[train & (groups == name)].sum()) for name in names}
    epochs = mixture.plan(config.mixture, sizes)
    used = mixture.uses(groups.tolist(), facts.ids.view(np.uint64), epochs)
    return used * train, {name: round(value, 4) for name, value in epochs.items()}


def _write_documents(path: Path, folders: list[Path], fate: NDArray[np.int8], uses: Ints, leaks: pl.Series) -> None:
    """Write the splits and what was dropped.

    Args:
        uses: (documents,) how often each goes into train; the second use comes after the first of all others.
        leaks: (documents,) the evaluation item that each holds, shown in place of its beginning.
    """
    schema = pa.schema(dict.fromkeys(SCHEMA, pa.large_string()))
    writer = pa.parquet.ParquetWriter
    with (
        writer(path / "train.parquet", schema, compression="zstd") as train,
        writer(path / "validation.parquet", schema, compression="zstd") as validation,
        writer(path / "dropped.parquet", block.DROPPED_SCHEMA, compression="zstd") as dropped,
    ):
        start = 0
        for folder in folders:
            for rows in block.rows_of(folder / "dropped.parquet"):
                dropped.write_table(rows.to_arrow().cast(block.DROPPED_SCHEMA))
            for rows in block.rows_of(folder / "documents.parquet"):
                part = pl.Series(fate[start : start + len(rows)])
                start += len(rows)
                train.write_table(rows.filter(pl.Series(uses[start - len(rows) : start] > 0)).to_arrow().cast(schema))
                validation.write_table(rows.filter(part == VALIDATION).to_arrow().cast(schema))
                for code, reason in REASONS.items():
                    shown = leaks[start - len(rows) : start].filter(part == code) if code == CONTAMINATED else None
                    gone = explain(rows.filter(part == code), reason, shown).select(block.DROPPED_SCHEMA.names)
                    dropped.write_table(gone.to_arrow().cast(block.DROPPED_SCHEMA))
        for epoch in range(1, int(uses.max(initial=0))):
            start = 0
            for folder in folders:
                for rows in block.rows_of(folder / "documents.parquet"):
                    again = pl.Series(uses[start : start + len(rows)] > epoch)
                    start += len(rows)
                    train.write_table(rows.filter(again).to_arrow().cast(schema))


def _write_quarantine(path: Path, folders: list[Path]) -> None:
    with path.open("w", encoding="utf-8") as file:
        for folder in folders:
            for entry in block.read_quarantine(folder):
                file.write(json.dumps(entry, ensure_ascii=False, sort_keys=True) + "\n")


def _report(
    path: Path, counts: list[dict[str, Any]], facts: Facts, fate: NDArray[np.int8], held_out: HeldOut
) -> dict[str, Any]:
    """The funnel: what was read, what each reason took, what is left."""
    read: Counter[str] = Counter()
    edited: dict[str, Counter[str]] = {}
    quarantine: Counter[str] = Counter()
    for count in counts:
        read.update(count["read"])
        quarantine.update(count["quarantine"])
        for name, numbers in count["edited"].items():
            edited.setdefault(name, Counter()).update(numbers)
    dropped = pl.read_parquet(path / "dropped.parquet")
    by_reason = dropped.group_by("reason", maintain_order=True).agg(
        pl.len().alias("documents"), pl.col("bytes").sum(), pl.col("meta").head(_EXAMPLES).alias("examples")
    )
    left = {"train": _size(facts, fate == TRAIN), "validation": _size(facts, fate == VALIDATION)}
    return {
        "read": dict(read),
        "edited": {name: dict(numbers) for name, numbers in edited.items()},
        "dropped": {row.pop("reason"): row for row in by_reason.sort("documents", descending=True).to_dicts()},
        "dropped_share": round(int(dropped["bytes"].sum()) / max(read["bytes"], 1), 4),
        "quarantine": dict(quarantine),
        "held_out_items": {"given": len(held_out.items), "too short to look for": held_out.ignored},
        "sources": {name: _by_source(path / f"{name}.parquet") for name in ("train", "validation")},
        "languages": _languages(path / "train.parquet"),
        **left,
    }


def _size(facts: Facts, chosen: NDArray[np.bool_]) -> dict[str, int]:
    return {"documents": int(chosen.sum()), "bytes": int(facts.sizes[chosen].sum())}


def _languages(path: Path) -> dict[str, int]:
    """Bytes of each language, where the documents' meta name one."""
    language = pl.col("meta").str.json_path_match("$.language").alias("language")
    sizes = pl.scan_parquet(path).select(language, pl.col("text").str.len_bytes().cast(pl.Int64).alias("bytes"))
    found = sizes.drop_nulls().group_by("language").sum().sort("bytes", "language", descending=[True, False]).collect()
    return dict(found.iter_rows())


def _by_source(path: Path) -> dict[str, dict[str, int]]:
    sizes = (
        pl.scan_parquet(path)
        .group_by("source")
        .agg(pl.len().alias("documents"), pl.col("text").str.len_bytes().sum().cast(pl.Int64).alias("bytes"))
        .sort("bytes", "source", descending=[True, False])
        .collect()
    )
    return {row.pop("source"): row for row in sizes.to_dicts()}
