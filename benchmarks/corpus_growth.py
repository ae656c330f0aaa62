"""Ten million documents on paper: time and memory of the stage `corpus` at three sizes, of the search for duplicates at
three larger ones, and the peak memory on hostile files.

    python benchmarks/corpus_growth.py [--quick]      # needs FOUNDLING_DATA and some gigabytes in the temporary folder

Every run is a process of its own with one worker and one thread (POLARS_MAX_THREADS=1, RAYON_NUM_THREADS=1). Seconds
are those of the processor (time.process_time), which a busy machine changes little.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet

DATA = Path(os.environ.get("FOUNDLING_DATA", "data"))
ONE_CORE = {"POLARS_MAX_THREADS": "1", "RAYON_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
TARGET = 10_000_000
DOCUMENT_BYTES = 2000


def write_documents(path: Path, count: int) -> None:
    """Documents of about 2 KB from real sentences in random order; one in twenty is a near copy of the one before."""
    lines = gzip.decompress((DATA / "text" / "standardebooks_general.jsonl.gz").read_bytes()).decode().splitlines()
    text = " ".join(json.loads(line)["text"] for line in lines[:300])
    sentences = [part.strip() + "." for part in text.split(". ") if 40 < len(part) < 300]
    rng = np.random.default_rng(0)
    with path.open("w", encoding="utf-8") as file:
        previous = ""
        for number in range(count):
            chosen = " ".join(sentences[i] for i in rng.integers(0, len(sentences), DOCUMENT_BYTES // 120))
            document = f"{previous} Copy {number}." if number % 20 == 19 else f"{number}: {chosen}"
            file.write(json.dumps({"text": document}) + "\n")
            previous = document


def timed(owner: Any, name: str, seconds: dict[str, float]) -> None:
    """Add up the time that a function takes."""
    inner: Callable[..., Any] = getattr(owner, name)

    def run(*arguments: Any, **options: Any) -> Any:
        start = time.process_time()
        try:
            return inner(*arguments, **options)
        finally:
            seconds[name] = seconds.get(name, 0.0) + time.process_time() - start

    setattr(owner, name, run)


def run_stage(source: Path, store: Path) -> None:
    """Child: the whole stage on one file; prints seconds by step and the peak of memory."""
    from foundling.core.artifacts import Store
    from foundling.core.stages import run_stage as run
    from foundling.corpus import build, decide
    from foundling.corpus.config import CorpusConfig
    from foundling.corpus.writing import Writer
    from foundling.pipeline import STAGES

    config = CorpusConfig(
        data=(str(source),), workers=1, gopher_quality={}, gopher_repetition={}, repeated={}, validation_bytes=1_000_000
    )
    seconds: dict[str, float] = {}
    timed(build.engines, "run_blocks", seconds)
    timed(decide, "fates", seconds)
    timed(build, "Cuts", seconds)
    timed(Writer, "write", seconds)
    before = peak()
    start = time.process_time()
    made, _ = run(Store(store), STAGES["corpus"], config, {})
    total = time.process_time() - start
    print(json.dumps({**seconds, "total": total, "imports": before, "peak": peak(), "metrics": made.metrics}))


def run_clusters(count: int, folder: Path) -> None:
    """Child: near duplicates among `count` random signatures on disk, a tenth of them copies."""
    from foundling.corpus.duplicates import exact, near_clusters
    from foundling.corpus.signatures import PERMUTATIONS

    path = folder / "signatures.u32"
    rng = np.random.default_rng(0)
    with path.open("wb") as file:
        for first in range(0, count, 100_000):
            rows = rng.integers(0, 1 << 32, (min(100_000, count - first), PERMUTATIONS), np.uint32)
            rows[1::10] = rows[0::10][: len(rows[1::10])]
            rows.tofile(file)
    signed = np.memmap(path, np.uint32, "r").reshape(-1, PERMUTATIONS)
    before = peak()
    start = time.process_time()
    clusters = near_clusters(signed, 0.8, np.ones(count, bool))
    near = time.process_time() - start
    found = count - len(np.unique(clusters))
    start = time.process_time()
    exact(rng.integers(0, 1 << 62, count, np.int64).view(np.uint64))
    print(
        json.dumps(
            {"near": near, "exact": time.process_time() - start, "found": found, "before": before, "peak": peak()}
        )
    )


def run_hostile(source: Path, store: Path) -> None:
    """Child: the stage on one hostile file beside an innocent one; prints what the quarantine says."""
    from foundling.core.artifacts import Store
    from foundling.core.errors import FoundlingError
    from foundling.core.stages import run_stage as run
    from foundling.corpus.config import CorpusConfig
    from foundling.pipeline import STAGES

    good = source.parent / "good.txt"
    good.write_text("An innocent document that is long enough to stay. " * 10)
    before = peak()
    start = time.process_time()
    try:
        config = CorpusConfig(data=(str(source), str(good)), workers=1, validation_bytes=0)
        made, _ = run(Store(store), STAGES["corpus"], config, {})
        report = json.loads(made.file("report.json").read_text())
        outcome = ", ".join([*report["quarantine"], *report["dropped"]]) or "read"
        outcome += f"; {report['train']['documents']} documents kept"
    except FoundlingError as error:
        outcome = f"refused: {error}"
    print(json.dumps({"seconds": time.process_time() - start, "before": before, "peak": peak(), "outcome": outcome}))


def hostile_files(folder: Path) -> dict[str, Path]:
    """Files that would fill the memory of a careless reader."""

    def bomb(name: str, write: Callable[[Any], None]) -> Path:
        path = folder / name
        with path.open("wb") as file:
            write(file)
        return path

    def zeros(file: Any) -> None:
        file.truncate(1_000_000_000)

    def packed(file: Any) -> None:
        with gzip.GzipFile(fileobj=file, mode="wb", compresslevel=1) as packer:
            for _ in range(1000):
                packer.write(b" " * 1_000_000)

    def zstandard(file: Any) -> None:
        with pa.CompressedOutputStream(pa.PythonFile(file, "w"), "zstd") as packer:
            for _ in range(1000):
                packer.write(b" " * 1_000_000)

    def table(file: Any) -> None:
        columns = pa.table({"text": pa.DictionaryArray.from_arrays(pa.array([0] * 1500), pa.array(["x" * 1_000_000]))})
        pa.parquet.write_table(columns, file)

    def line(file: Any) -> None:
        for _ in range(1000):
            file.write(b"x" * 1_000_000)

    return {
        "1 GB of NUL bytes, JSON lines": bomb("zeros.jsonl", zeros),
        "1 GB single line, JSON lines": bomb("line.jsonl", line),
        "1 GB single line, text": bomb("line.txt", line),
        "1 GB single line, CSV": bomb("line.csv", line),
        "1 GB single line, FASTA": bomb("line.fasta", line),
        "1 GB in 1 MB of gzip": bomb("bomb.jsonl.gz", packed),
        "1 GB in 0.1 MB of gzip, text": bomb("bomb.txt.gz", packed),
        "1 GB in 0.1 MB of zstd": bomb("bomb.jsonl.zst", zstandard),
        "1.5 GB in 1 MB of Parquet": bomb("bomb.parquet", table),
        "100 MB of nested JSON": bomb("deep.jsonl", lambda file: file.write(b"[" * 100_000_000)),
        "15 MB of nested HTML": bomb("deep.html", lambda file: file.write(b"<div>" * 3_000_000)),
    }


def peak() -> int:
    """Peak resident bytes of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def child(*arguments: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, __file__, *arguments],
        env={**os.environ, **ONE_CORE},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{arguments}: {done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def growth(folder: Path, sizes: list[int]) -> None:
    print("the whole stage (Gopher's rules, repeated paragraphs, near duplicates, split), one core:")
    print("  documents     MB   read, rules, sign   decide  repeated    write    total   us/document   peak, MB")
    totals, peaks = [], []
    for size in sizes:
        source = folder / f"{size}.jsonl"
        write_documents(source, size)
        found = child("--stage", str(source), str(folder / f"store-{size}"))
        totals.append(found["total"])
        peaks.append(found["peak"])
        steps = [found.get(name, 0.0) for name in ("run_blocks", "fates", "Cuts", "write", "total")]
        shown = "{:17.1f} s {:6.2f} s {:7.2f} s {:6.2f} s {:6.1f} s".format(*steps)
        megabytes = source.stat().st_size / 1e6
        print(f"  {size:9d} {megabytes:6.0f} {shown} {1e6 * found['total'] / size:13.0f} {found['peak'] / 1e6:10.0f}")
        source.unlink()
    per_document, fixed = np.polyfit(sizes, totals, 1)
    memory, base = np.polyfit(sizes, peaks, 1)
    print(f"  seconds = {fixed:.1f} + {per_document * 1e6:.0f}e-6 n   bytes = {base / 1e6:.0f}e6 + {memory:.0f} n")
    hours = (fixed + per_document * TARGET) / 3600
    print(f"  so n = 10,000,000: {hours:.1f} hours of one core, {(base + memory * TARGET) / 1e9:.1f} GB of memory")


def clusters(folder: Path, sizes: list[int]) -> None:
    print("\nnear and exact duplicates alone, on signatures of 512 bytes on disk, one core:")
    print("  documents   near, s   us/document   exact, s   copies found   memory added, bytes/document")
    times, added = [], []
    for size in sizes:
        found = child("--clusters", str(size), str(folder))
        times.append(found["near"])
        added.append(found["peak"] - found["before"])
        line = f"  {size:9d} {found['near']:9.2f} {1e6 * found['near'] / size:13.2f} {found['exact']:10.2f}"
        print(f"{line} {found['found'] / (size // 10):13.1%} {added[-1] / size:20.0f}")
    per_document, memory = times[-1] / sizes[-1], added[-1] / sizes[-1]
    print(
        f"  so n = 10,000,000: {per_document * TARGET / 60:.1f} minutes, {memory * TARGET / 1e9:.1f} GB, pages of the"
    )
    print("  signatures' file that the system may drop included")


def hostile(folder: Path) -> None:
    print("\nhostile files, each beside an innocent document:")
    print("  file                               seconds   memory added, MB   outcome")
    for name, path in hostile_files(folder).items():
        found = child("--hostile", str(path), str(folder / f"store-{path.name}"))
        path.unlink()
        added = (found["peak"] - found["before"]) / 1e6
        print(f"  {name:<34} {found['seconds']:7.1f} {added:18.0f}   {found['outcome'][:90]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="smaller sizes")
    for name in ("--stage", "--clusters", "--hostile"):
        parser.add_argument(name, nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.stage:
        return run_stage(Path(options.stage[0]), Path(options.stage[1]))
    if options.clusters:
        return run_clusters(int(options.clusters[0]), Path(options.clusters[1]))
    if options.hostile:
        return run_hostile(Path(options.hostile[0]), Path(options.hostile[1]))
    scale = 8 if options.quick else 1
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        growth(folder, [n // scale for n in (8_000, 32_000, 96_000)])
        clusters(folder, [n // scale for n in (100_000, 400_000, 1_600_000)])
        hostile(folder)
    print(f"\nPython {sys.version.split()[0]}, polars {pl.__version__}, numpy {np.__version__}")
    return None


if __name__ == "__main__":
    main()
