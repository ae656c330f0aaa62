"""Where the blocks of a corpus run: threads of this process, or the workers of a Ray cluster.

A block is a pure function of its input and is published by a rename, so both engines leave the same files, and a
worker that dies costs its block.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from foundling.core import progress
from foundling.core.errors import FoundlingError
from foundling.corpus import block
from foundling.corpus.config import CorpusConfig
from foundling.corpus.decontaminate import HeldOut
from foundling.corpus.rules.rule import Rule
from foundling.corpus.sources import Block, blocks

_MAX_THREADS = 8  # each block takes some hundred megabytes while it runs
_RETRIES = 3


def run_blocks(config: CorpusConfig, held_out: HeldOut, scorers: Sequence[Rule], folder: Path) -> list[Path]:
    """Make every block under `folder`; returns their directories in order."""
    work = blocks(config)
    folder.mkdir(parents=True, exist_ok=True)
    run = _on_ray if config.engine == "ray" else _in_threads
    with progress.task("read and filter", len(work), "blocks") as bar:
        for _ in run(work, config, held_out, scorers, folder.resolve()):
            bar.advance()
    return [block.folder_of(item, folder) for item in work]


def _in_threads(
    work: list[Block], config: CorpusConfig, held_out: HeldOut, scorers: Sequence[Rule], folder: Path
) -> Iterator[Path]:
    """Array operations release the interpreter's lock, so threads keep the cores busy without copying any text."""
    workers = config.workers or min(os.cpu_count() or 1, _MAX_THREADS)
    with ThreadPoolExecutor(workers) as pool:
        yield from pool.map(lambda item: block.run(item, config, held_out, scorers, folder), work)


def _on_ray(
    work: list[Block], config: CorpusConfig, held_out: HeldOut, scorers: Sequence[Rule], folder: Path
) -> Iterator[Path]:
    """Blocks as Ray tasks: on the cluster that RAY_ADDRESS names, or one on this machine. The disk must be shared."""
    try:
        import ray
    except ImportError:
        what = "engine 'ray' needs Ray, which is not installed"
        raise FoundlingError(what, fix='Run: pip install "foundling[ray]", or use engine=local') from None
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    started = not ray.is_initialized()
    if started:
        ray.init(num_cpus=config.workers or None, log_to_driver=False, include_dashboard=False)
    try:
        task: Any = ray.remote(max_retries=_RETRIES)(block.run)
        shared = [ray.put(value) for value in (config, held_out, list(scorers))]
        waiting = [task.remote(item, *shared, folder) for item in work]
        while waiting:
            done, waiting = ray.wait(waiting)
            yield from ray.get(done)
    finally:
        if started:
            ray.shutdown()
