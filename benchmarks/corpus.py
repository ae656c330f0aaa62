"""Corpus claims: rules, language identification, MinHash and HTML beside datatrove's and resiliparse's, and growth.

    python benchmarks/corpus.py [--quick]      # needs FOUNDLING_DATA; to compare: pip install datatrove spacy

One core each (POLARS_MAX_THREADS=1, RAYON_NUM_THREADS=1 are set below); runs alternate and medians are printed.
"""

from __future__ import annotations

import os

os.environ |= {"POLARS_MAX_THREADS": "1", "RAYON_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}

import argparse
import gzip
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl

from foundling.corpus import duplicates
from foundling.corpus.columns import FlatText
from foundling.corpus.decontaminate import HeldOut
from foundling.corpus.readers.web import main_content
from foundling.corpus.rules import c4, fineweb, gopher, language
from foundling.corpus.rules.config import C4Quality, FineWebQuality, GopherQuality, GopherRepetition
from foundling.corpus.rules.rule import Judge
from foundling.corpus.signatures import signatures
from foundling.corpus.words import word_hashes

DATA = Path(os.environ.get("FOUNDLING_DATA", "data"))


def load(name: str, field: str = "text", limit: int | None = None) -> list[str]:
    lines = gzip.decompress((DATA / name).read_bytes()).decode().splitlines()[:limit]
    return [json.loads(line)[field] for line in lines]


def seconds(run: Callable[[], object], times: int = 3) -> float:
    taken = []
    for _ in range(times):
        start = time.process_time()
        run()
        taken.append(time.process_time() - start)
    return statistics.median(taken)


def frame(texts: list[str]) -> pl.DataFrame:
    columns = {"text": texts, "source": [""] * len(texts), "meta": ["{}"] * len(texts)}
    return pl.DataFrame(columns, schema=dict.fromkeys(columns, pl.String))


def peers() -> dict[str, Callable[[str], bool]]:
    """datatrove's filters by our names, each `keep(text)`; empty where it is not installed."""
    try:
        from datatrove.data import Document
        from datatrove.pipeline.filters import (
            C4QualityFilter,
            FineWebQualityFilter,
            GopherQualityFilter,
            GopherRepetitionFilter,
        )
    except ImportError:
        return {}
    filters = {
        "gopher quality": GopherQualityFilter(),
        "gopher repetition": GopherRepetitionFilter(),
        "fineweb": FineWebQualityFilter(),
        "c4": C4QualityFilter(),
    }
    return {name: lambda text, f=f: f.filter(Document(text=text, id="")) is True for name, f in filters.items()}


def rules(texts: list[str]) -> None:
    print(f"\nrules, {len(texts)} documents, {size(texts):.2f} MB: MB/s of one core")
    ours: dict[str, Judge] = {
        "gopher quality": gopher.quality(GopherQuality()),
        "gopher repetition": gopher.repetition(GopherRepetition()),
        "fineweb": fineweb.quality(FineWebQuality()),
        "c4": c4.quality(C4Quality()),
    }
    theirs = peers()
    documents = frame(texts)
    for name, judge in ours.items():
        judge.judge(documents)
        speed = size(texts) / seconds(lambda judge=judge: judge.judge(documents))
        line = f"  {name:<18} {speed:7.1f}"
        if theirs:
            from datatrove.utils.text import split_into_parts

            split_into_parts.cache_clear()
            start = time.process_time()
            decisions = [theirs[name](text) for text in texts]
            other = size(texts) / (time.process_time() - start)
            same = [reason is None for reason in judge.judge(documents)[0]]
            agree = np.mean(np.array(same) == np.array(decisions))
            line += f"   datatrove {other:6.3f}   ratio {speed / other:6.1f}x   same decision {agree:.2%}"
        print(line)
    speed = size(texts) / seconds(lambda: language.detect(documents["text"]))
    print(f"  {'language id':<18} {speed:7.1f}")


def near_duplicates(texts: list[str]) -> None:
    print(f"\nnear duplicates, {len(texts)} documents, {size(texts):.1f} MB: MB/s of one core, all steps")
    column = pl.Series(texts)

    def run() -> None:
        signed = signatures(word_hashes(FlatText.of(column)))
        duplicates.near_clusters(signed, 0.8, np.ones(len(texts), bool))

    speed = size(texts) / seconds(run)
    print(f"  {'MinHash-LSH':<18} {speed:7.1f}")
    try:
        from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupSignature
        from datatrove.utils.hashing import HashConfig
    except ImportError:
        return
    peer = MinhashDedupSignature(
        output_folder="/tmp/foundling-minhash", config=MinhashConfig(hash_config=HashConfig(hash_fc="sha1"))
    )
    part = texts[: max(1, len(texts) // 20)]
    start = time.process_time()
    for text in part:
        peer.get_signature(peer.get_shingles(text))
    other = size(part) / (time.process_time() - start)
    print(f"  {'datatrove':<18} {other:7.2f} (signatures alone)   ratio {speed / other:.1f}x")


def html() -> None:
    pages = [page.encode() for page in load("web/html_extraction_cc.jsonl.gz", "html")] * 5
    from resiliparse.extract.html2text import extract_plain_text

    texts = [page.decode() for page in pages]
    alone = seconds(lambda: [extract_plain_text(t, main_content=True, preserve_formatting=True) for t in texts], 5)
    ours = seconds(lambda: [main_content(page, "utf-8") for page in pages], 5)
    print(f"\nHTML: {size(texts) / ours:.1f} MB/s, resiliparse alone {size(texts) / alone:.1f} ({alone / ours:.1%})")


def growth(texts: list[str]) -> None:
    """Seconds and bytes a document of each step at three sizes: linear if the columns are flat."""
    print("\ngrowth: microseconds a document (and what the step keeps in memory for each)")
    print(f"  {'documents':>10} {'words':>8} {'signatures':>11} {'clusters':>9} {'leaks':>7}")
    pieces = [text[i : i + 2000] for text in texts for i in range(0, len(text), 2000)]
    held_out = HeldOut(pieces[:500])
    for count in (len(pieces) // 16, len(pieces) // 4, len(pieces)):
        part = pl.Series(pieces[:count])
        words = word_hashes(FlatText.of(part))
        signed = signatures(words)
        steps = [
            seconds(lambda part=part: word_hashes(FlatText.of(part)), 1),
            seconds(lambda words=words: signatures(words), 1),
            seconds(lambda signed=signed: duplicates.near_clusters(signed, 0.8, np.ones(len(signed), bool)), 1),
            seconds(lambda words=words: held_out.matches(words), 1),
        ]
        print(f"  {count:>10} " + " ".join(f"{1e6 * s / count:9.1f}" for s in steps))
    print("  kept a document: 32 B of facts, 512 B of signature (on disk); one band at a time is in memory")


def size(texts: list[str]) -> float:
    return sum(len(text.encode()) for text in texts) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="less text")
    quick = parser.parse_args().quick
    books = load("text/standardebooks_general.jsonl.gz", limit=200 if quick else None)
    rules([*load("text/c4_demo.jsonl.gz"), *load("text/us_speeches.jsonl.gz", limit=30), *books[:10]])
    near_duplicates(books)
    html()
    growth(books)
    print(f"\nPython {sys.version.split()[0]}, polars {pl.__version__}, numpy {np.__version__}")


if __name__ == "__main__":
    main()
