"""Ray leaves the same bytes as this process's threads, also when a worker dies."""

from __future__ import annotations

import hashlib
import os
import signal
from pathlib import Path

import pytest
from tests.unit.corpus.test_corpus_stage import make, prose

from foundling.corpus.decontaminate import HeldOut

pytest.importorskip("ray")
FILES = ("train.parquet", "validation.parquet", "dropped.parquet", "report.json", "quarantine.jsonl")


class KillsOnce(HeldOut):
    """Evaluation items whose first use ends the worker that looks for them."""

    def __init__(self, flag: Path) -> None:
        super().__init__([])
        self.flag = flag

    def matches(self, words):  # type: ignore[no-untyped-def]
        if not self.flag.exists():
            self.flag.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().matches(words)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("foundling.corpus.sources.BLOCK_BYTES", 3000)
    root = tmp_path / "data"
    root.mkdir()
    for number in range(20):
        (root / f"doc{number:02d}.txt").write_text(prose(20, number))
    return root


def test_same_bytes_and_a_killed_worker_costs_its_block(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def digests(engine: str) -> list[str]:
        corpus = make(tmp_path / engine, data=(str(folder),), engine=engine, workers=2)
        return [hashlib.sha256(corpus.file(name).read_bytes()).hexdigest() for name in FILES]

    local = digests("local")
    flag = tmp_path / "killed"
    monkeypatch.setattr("foundling.corpus.build.HeldOut", lambda items: KillsOnce(flag))
    assert digests("ray") == local
    assert flag.exists(), "no worker was killed, so the test shows nothing"
