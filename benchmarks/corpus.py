"""Corpus claims: rules and their decisions, language identification, MinHash and HTML beside datatrove's and
resiliparse's; near duplicates and leaks against what theory promises.

    python benchmarks/corpus.py [--quick]      # needs FOUNDLING_DATA; to compare: pip install datatrove spacy

One core each (POLARS_MAX_THREADS=1, RAYON_NUM_THREADS=1 are set below), in seconds of the processor; medians.
"""

from __future__ import annotations

import os

os.environ |= {"POLARS_MAX_THREADS": "1", "RAYON_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
os.environ |= {"DATATROVE_COLORIZE_LOGS": "0", "LOGURU_LEVEL": "ERROR"}

import argparse
import gzip
import json
import random
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from scipy.stats import binom

from foundling.corpus import duplicates, installed
from foundling.corpus.characters import Batch, Spans
from foundling.corpus.columns import FlatText
from foundling.corpus.decontaminate import HeldOut
from foundling.corpus.readers.web import main_content
from foundling.corpus.rules import c4, fineweb, gopher, language
from foundling.corpus.rules.config import C4Quality, FineWebQuality, GopherQuality, GopherRepetition
from foundling.corpus.rules.rule import Judge
from foundling.corpus.signatures import PERMUTATIONS, SHINGLE_WORDS, Bands, signatures, similarity
from foundling.corpus.words import WordHashes, word_hashes

DATA = Path(os.environ.get("FOUNDLING_DATA", "data"))
THRESHOLD = 0.8
SEEDS = 300


def load(name: str, field: str = "text", limit: int | None = None) -> list[str]:
    lines = gzip.decompress((DATA / name).read_bytes()).decode().split("\n")[:limit]
    return [json.loads(line)[field] for line in lines if line]


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


def size(texts: list[str]) -> float:
    return sum(len(text.encode()) for text in texts) / 1e6


def distorted(texts: list[str]) -> list[str]:
    """Web pages and what comes near the rules' thresholds: cut short, repeated, made lists, made fragments."""
    rng = random.Random(0)
    found = list(texts)
    for text in texts:
        lines, words = text.split("\n"), text.split()
        found += [
            "\n".join(lines + lines[: len(lines) // 3]),
            "\n".join("- " + part for part in text.split(". ")),
            text[: rng.randrange(100, 700)],
            text.replace(". ", "...\n" if rng.random() < 0.5 else ".\n"),
            " ".join(words[:60] + words[20:40] * rng.randrange(1, 5)),
        ]
    return found


def peers() -> dict[str, Callable[[str], bool | str]]:
    """datatrove's filters by our names: True, or why a text goes; empty where it is not installed."""
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

    def keep(text: str, peer: Any) -> bool | str:
        found = peer.filter(Document(text=text, id=""))
        return True if found is True else str(found[1] if isinstance(found, tuple) else found)

    return {name: lambda text, peer=peer: keep(text, peer) for name, peer in filters.items()}


def their_words(texts: list[str]) -> Callable[[Batch, int], Spans]:
    """datatrove's words, as spans in our batches."""
    from datatrove.utils.text import split_into_words

    def splitter(batch: Batch, first: int) -> Spans:
        starts, ends, offsets = [], [], [0]
        for number in range(len(batch)):
            text, base, position = texts[first + number], int(batch.offsets[number]), 0
            for word in split_into_words(text):
                position = text.index(word, position)
                starts.append(base + position)
                position += len(word)
                ends.append(base + position)
            offsets.append(len(starts))
        return Spans(np.array(starts, np.int64), np.array(ends, np.int64), np.array(offsets, np.int64))

    return splitter


def their_sentences(lines: pl.Series) -> pl.Series:
    from datatrove.utils.text import split_into_sentences

    return pl.Series([len(split_into_sentences(line)) for line in lines], dtype=pl.Int64)


def judges(texts: list[str], *, theirs: bool) -> dict[str, Judge]:
    """Our rules, with our own words and sentences or with datatrove's."""
    words = their_words(texts) if theirs else gopher.own_words
    sentences = their_sentences if theirs else c4.count_sentences
    return {
        "gopher quality": gopher.quality(GopherQuality(), words),
        "gopher repetition": gopher.repetition(GopherRepetition(), words),
        "fineweb": fineweb.quality(FineWebQuality(), words),
        "c4": c4.quality(C4Quality(), sentences),
    }


def rules(texts: list[str]) -> None:
    print(f"\nrules, {len(texts)} documents, {size(texts):.2f} MB: MB/s of one core")
    theirs, documents = peers(), frame(texts)
    disagreements: list[str] = []
    for name, judge in judges(texts, theirs=False).items():
        speed = size(texts) / seconds(lambda judge=judge: judge.judge(documents))
        line = f"  {name:<18} {speed:7.1f}"
        if theirs:
            theirs[name](texts[0])  # loads what it needs
            start = time.process_time()
            decisions = [theirs[name](text) for text in texts]
            other = size(texts) / (time.process_time() - start)
            line += f"   datatrove {other:6.3f}   ratio {speed / other:6.1f}x"
            for label, with_theirs in (("own words", False), ("the same words", True)):
                reasons = judges(texts, theirs=with_theirs)[name].judge(documents)[0].to_list()
                differ = [n for n, (a, b) in enumerate(zip(reasons, decisions)) if (a is None) != (b is True)]
                line += f"   same decision, {label}: {1 - len(differ) / len(texts):.2%}"
                disagreements += [f"{name}, {label}: ours {reasons[n]}, theirs {decisions[n]}" for n in differ]
        print(line)
    speed = size(texts) / seconds(lambda: language.detect(documents["text"]))
    print(f"  {'language id':<18} {speed:7.1f}")
    for line in disagreements[:40]:
        print(f"    differs: {line}")


def near_duplicates(texts: list[str]) -> None:
    print(f"\nnear duplicates, {len(texts)} documents, {size(texts):.1f} MB: MB/s of one core, all steps")
    column = pl.Series(texts)

    def run() -> None:
        signed = signatures(word_hashes(FlatText.of(column)))
        duplicates.near_clusters(signed, THRESHOLD, np.ones(len(texts), bool))

    speed = size(texts) / seconds(run)
    print(f"  {'MinHash-LSH':<18} {speed:7.1f}")
    part = texts[: max(1, len(texts) // 20)]
    taken = _datatrove_minhash(part)
    if taken:
        other = size(part) / taken
        print(f"  {'datatrove':<18} {other:7.2f} (its four stages on {size(part):.1f} MB)   ratio {speed / other:.1f}x")


def _datatrove_minhash(texts: list[str]) -> float | None:
    """Seconds of datatrove's signature, bucket, cluster and filter stages in this process."""
    try:
        from datatrove.data import Document
        from datatrove.pipeline.dedup import MinhashDedupCluster, MinhashDedupFilter, MinhashDedupSignature
        from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupBuckets
        from datatrove.utils.hashing import HashConfig
    except ImportError:
        return None
    config = MinhashConfig(hash_config=HashConfig(hash_fc="sha1"))
    documents = [Document(text=text, id=str(n)) for n, text in enumerate(texts)]
    with tempfile.TemporaryDirectory() as folder:
        start = time.process_time()
        MinhashDedupSignature(f"{folder}/signatures", config=config).run(iter(documents), rank=0, world_size=1)
        for rank in range(config.num_buckets):
            buckets = MinhashDedupBuckets(f"{folder}/signatures", f"{folder}/buckets", config=config)
            buckets.run(None, rank=rank, world_size=config.num_buckets)
        MinhashDedupCluster(f"{folder}/buckets", f"{folder}/removed", config=config).run(None, 0, 1)
        for _ in MinhashDedupFilter(f"{folder}/removed").run(iter(documents), rank=0, world_size=1):
            pass
        return time.process_time() - start


def natural_duplicates(limit: int) -> None:
    """Pairs of source files that are really alike (copies in several packages), found by counting all shingles."""
    texts = [path.read_bytes().decode("utf-8", "ignore") for path, _, _ in installed.files()][-limit:]
    words = word_hashes(FlatText.of(pl.Series(texts)))
    pairs = _all_pairs(words.shingles(SHINGLE_WORDS), 0.4)
    left, right = (np.array([pair[k] for pair in pairs]) for k in (0, 1))
    truth, bands = np.array([pair[2] for pair in pairs]), Bands.for_threshold(THRESHOLD)
    candidates, declared = [], []
    for seed in range(SEEDS):  # pairs share files, so only other hash functions give independent looks
        signed = signatures(words, seed + 1)
        hashes = bands.hashes(signed)
        candidates.append((hashes[left] == hashes[right]).any(axis=1))
        declared.append(candidates[-1] & (similarity(signed[left], signed[right]) >= THRESHOLD))
    print(f"\nnatural near duplicates: {len(pairs)} pairs of {len(texts)} source files with a similarity over 0.4,")
    print(f"  mean of {SEEDS} draws of the hash functions, with 3 standard errors")
    print("  similarity   pairs   became candidates   expected")
    recall = np.array([bands.recall(s) for s in truth])
    for low in np.arange(0.4, 1.0, 0.1):
        here = (truth >= low) & ((truth < low + 0.1) | (low > 0.85))
        if here.any():
            print(
                f"  {low:.1f} - {low + 0.1:.1f} {here.sum():9d} {_mean(candidates, here)} {recall[here].mean():10.1%}"
            )
    enough = binom.sf(np.ceil(THRESHOLD * PERMUTATIONS) - 1, PERMUTATIONS, truth)  # the estimate reaches the threshold
    really = truth >= THRESHOLD
    expected = enough[really].mean(), enough[really].sum() / enough.sum()
    right, all_of_them = (np.array([(d & which).sum() for d in declared]) for which in (really, np.True_))
    without = (right.sum() - right) / (all_of_them.sum() - all_of_them)  # all draws but one (jackknife)
    error = np.sqrt((SEEDS - 1) * np.mean((without - without.mean()) ** 2))
    print(f"  declared at {THRESHOLD}: recall {_mean(declared, really)}, expected {expected[0]:.1%};", end=" ")
    print(f"precision {right.sum() / all_of_them.sum():.1%} +- {3 * error:.1%}, expected {expected[1]:.1%}")


def _mean(draws: list[np.ndarray], here: np.ndarray) -> str:
    shares = np.array([draw[here].mean() for draw in draws])
    return f"{shares.mean():10.1%} +- {3 * shares.std() / len(draws) ** 0.5:5.1%}"


def _all_pairs(shingles: WordHashes, least: float) -> list[tuple[int, int, float]]:
    """(a, b, Jaccard similarity) of all pairs of at least `least`, exactly."""
    sets = [np.unique(shingles.hashes[a:b]) for a, b in zip(shingles.offsets[:-1], shingles.offsets[1:])]
    owner = np.repeat(np.arange(len(sets)), [len(own) for own in sets])
    flat = np.concatenate(sets)
    order = np.argsort(flat, kind="stable")
    edges = np.flatnonzero(np.concatenate([[True], np.diff(flat[order]) > 0, [True]]))
    shared: dict[tuple[int, int], int] = defaultdict(int)
    for start, end in pairwise(edges):
        if 1 < end - start <= 60:  # what is in more files than that is a licence's phrase
            own = owner[order[start:end]].tolist()
            for i, a in enumerate(own):
                for b in own[i + 1 :]:
                    shared[a, b] += 1
    candidates = [(a, b) for (a, b), n in shared.items() if n >= 0.3 * min(len(sets[a]), len(sets[b])) and n >= 20]
    found = []
    for a, b in candidates:
        both = len(np.intersect1d(sets[a], sets[b], assume_unique=True))
        jaccard = both / (len(sets[a]) + len(sets[b]) - both)
        if jaccard >= least:
            found.append((a, b, jaccard))
    return found


def leaks(texts: list[str]) -> None:
    """Real evaluation items planted in real text."""
    rng = np.random.default_rng(0)
    items = [item for item in load("eval/mmlu.jsonl.gz", "question")[:4000] if len(item.split()) >= 13]
    background = [text[:3000] for text in texts]
    held_out = HeldOut(items)
    lengths = np.array([len(words) for words in map(str.split, items)])
    print(f"\ndecontamination: {len(items)} MMLU questions of 13 words or more")

    def found(planted: list[str]) -> np.ndarray:
        documents = [f"{background[n % len(background)]} {item} The end." for n, item in enumerate(planted)]
        return held_out.matches(word_hashes(FlatText.of(pl.Series(documents))))[0] >= 0

    print(f"  verbatim {found(items).mean():.2%}")
    changed = []
    for item in items:
        words = item.split()
        for place in rng.choice(len(words), max(1, round(0.05 * len(words))), replace=False):
            words[place] = "another"
        changed.append(" ".join(words))
    hits = found(changed)
    print(f"  5% of the words replaced {hits.mean():.2%} (13 to 20 words {hits[lengths <= 20].mean():.2%})")
    innocent = held_out.matches(word_hashes(FlatText.of(pl.Series(texts))))[0] >= 0
    print(f"  found where nothing was planted: {innocent.sum()} of {len(texts)} book chapters")


def html() -> None:
    pages = [page.encode() for page in load("web/html_extraction_cc.jsonl.gz", "html")] * 5
    from resiliparse.extract.html2text import extract_plain_text

    texts = [page.decode() for page in pages]

    def alone() -> None:
        for page in pages:
            extract_plain_text(page.decode(), main_content=True, preserve_formatting=True)

    def ours() -> None:
        for page in pages:
            main_content(page, "utf-8")

    runs = [(seconds(alone, 1), seconds(ours, 1)) for _ in range(7)]
    theirs, own = (min(run[k] for run in runs) for k in (0, 1))
    print(f"\nHTML: {size(texts) / own:.1f} MB/s, {theirs / own:.1%} of resiliparse alone (best of 7 runs each)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="less text")
    quick = parser.parse_args().quick
    books = load("text/standardebooks_general.jsonl.gz", limit=200 if quick else None)
    pages = load("text/c4_demo.jsonl.gz", limit=60 if quick else 170)
    rules([*distorted(pages), *load("text/us_speeches.jsonl.gz", limit=10), *books[:5]])
    near_duplicates(books)
    natural_duplicates(500 if quick else 3000)
    leaks(books)
    html()
    print(f"\nPython {sys.version.split()[0]}, polars {pl.__version__}, numpy {np.__version__}")


if __name__ == "__main__":
    main()
