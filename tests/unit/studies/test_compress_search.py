"""Targets, the frontier, the choice, and what cannot be met."""

from __future__ import annotations

import json
import sysconfig
from pathlib import Path
from typing import Any

import polars
import pytest
import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers

from foundling.compression import texts
from foundling.core.artifacts import Artifact, Store
from foundling.core.errors import FoundlingError
from foundling.models.build import build
from foundling.models.checkpoint import save_module
from foundling.models.presets import preset
from foundling.studies import compress_search
from foundling.studies.compress_config import CompressSearchConfig, parse_target
from foundling.studies.compress_search import Candidate, _frontier, search
from foundling.tokenization.tokenizer import SPECIAL_TOKENS, Tokenizer


def test_targets_are_read() -> None:
    size, decode, quality = (parse_target(text) for text in ("size<60MB", "decode > 2x", "quality>=99%"))
    assert (size.property, size.bound) == ("size", 60e6) and size.met(59e6) and not size.met(61e6)
    assert decode.met(2.5) and not decode.met(1.5)
    assert quality.bound == pytest.approx(0.99) and not quality.met(0.985)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("small", "is not understood"),
        ("sise<60MB", "size"),
        ("size>60MB", "the wrong side"),
        ("size<60", "has the unit ''"),
        ("quality>=0.99", "has the unit ''"),
        ("decode>2..1x", "has no number"),
    ],
)
def test_bad_targets_are_named(text: str, message: str) -> None:
    with pytest.raises(FoundlingError, match=message):
        parse_target(text)


def candidate(name: str, size: int, quality: float, decode: float) -> Candidate:
    artifact = Artifact(Path(), {"metrics": {}})
    return Candidate(name, artifact, size, {"value": quality, "low": quality, "high": quality}, decode, 1.0, decode)


def test_frontier_holds_what_nothing_beats() -> None:
    """Guards against a frontier in two of the three properties, and against equals that beat each other."""
    found = [
        candidate("big and good", 100, 0.99, 1.0),
        candidate("small and bad", 50, 0.90, 2.0),
        candidate("beaten", 100, 0.98, 1.0),
        candidate("fast only", 100, 0.90, 3.0),
        candidate("twin", 50, 0.90, 2.0),
    ]
    assert _frontier(found) == ("big and good", "small and bad", "fast only", "twin")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, Artifact]:
    """A model of byte tokens whose every weight matters, and a corpus."""
    home = tmp_path_factory.mktemp("inputs")
    module = build(preset("foundling-1m", vocab_size=259, max_positions=64), seed=3, zero_outputs=False)
    save_module(module, home / "model")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    fast = tokenizers.Tokenizer(models.BPE({c: i + 3 for i, c in enumerate(alphabet)}, []))
    fast.pre_tokenizer, fast.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    fast.add_special_tokens(list(SPECIAL_TOKENS))
    Tokenizer(fast, {"eos_token": "<|endoftext|>"}).save(home / "model")
    text = (Path(sysconfig.get_paths()["stdlib"]) / "os.py").read_text()
    rows = [{"id": str(i), "text": text[400 * i : 400 * (i + 1)], "source": "stdlib", "meta": "{}"} for i in range(8)]
    (home / "corpus").mkdir()
    for split in ("train", "validation"):
        polars.DataFrame(rows).write_parquet(home / "corpus" / f"{split}.parquet")
    return Artifact.outside(home / "model", "model"), Artifact.outside(home / "corpus", "corpus")


def run(
    inputs: tuple[Artifact, Artifact | None],
    where: Path,
    monkeypatch: pytest.MonkeyPatch,
    text: tuple[str, ...] = (),
    **fields: Any,
) -> Any:
    said = {"decode": 1.0, "prefill": 1.0}
    monkeypatch.setattr("foundling.compression.compress.speed", lambda module, tokenizer: said)
    ways = {name: compress_search.WAYS[name] for name in ("int8", "int4", "int4 gptq, groups of 64")}
    monkeypatch.setattr(compress_search, "WAYS", ways | {"impossible": {"bits": 4, "group_size": 48}})
    config = CompressSearchConfig(page=str(where / "page.html"), **fields)
    shared = {"compare_bytes": 800, "calibration_rows": 4, "calibration_length": 48, "text": list(text)}
    return search(Store(where / "runs"), *inputs, config, shared)


def test_search_chooses_the_best_that_meets_every_target(
    inputs: tuple[Artifact, Artifact], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against a choice that ignores a target, and a way that fails and stops the others."""
    asked = {"tasks": ("bits-per-byte",), "items": 4}
    result = run(inputs, tmp_path, monkeypatch, target=("size<0.8MB", "quality>=90%"), **asked)
    assert result.chosen is not None and result.chosen.size <= 0.8e6
    fits = [c for c in result.candidates if c.size <= 0.8e6]
    assert result.chosen.quality["value"] == max(c.quality["value"] for c in fits)
    assert "group_size 48 does not divide" in result.skipped["impossible"]
    page = (tmp_path / "page.html").read_text()
    assert {(said.scores.task, said.scores.n, said.changed) for said in result.answers} == {("bits-per-byte", 4, 4)}
    assert "Answers that changed" in page and "bits-per-byte" in page
    assert "<svg" in page and result.chosen.name in page and "What broke most" in page
    assert result.chosen.name in result.frontier and f"* {result.chosen.name}" in str(result)
    layers = json.loads(result.chosen.artifact.file("compression.json").read_text())["layers"]
    assert len(layers) == 35 and torch.isfinite(torch.tensor([layer["weight_error"] for layer in layers])).all()


def test_targets_that_cannot_be_met_are_named(
    inputs: tuple[Artifact, Artifact], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(FoundlingError, match=r"no way meets 'size<0.1MB'.*Size comes to .* at best"):
        run(inputs, tmp_path, monkeypatch, target=("size<0.1MB",), budget_s=0.001)
    assert (tmp_path / "page.html").exists()


def test_text_files_serve_where_there_is_no_corpus(
    inputs: tuple[Artifact, Artifact], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their ends are held out: a model from a hub has no corpus. Text that calibrates must not be compared on."""
    lines = [f"line {number}: {'ab' * (number % 7)}\n" for number in range(200)]
    (tmp_path / "some.txt").write_text("".join(lines))
    result = run((inputs[0], None), tmp_path, monkeypatch, (str(tmp_path / "some.txt"),), target=("size<0.8MB",))
    assert result.chosen is not None and result.chosen.quality["n"] > 1
    beginning, end = texts._parts(str(tmp_path / "some.txt"))
    assert beginning + end == "".join(lines) and end.startswith("line ") and len(end) < 0.25 * len(beginning + end)


def test_a_misspelled_task_is_refused_at_once(
    inputs: tuple[Artifact, Artifact], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tasks are asked last; the mistake must not cost the search."""
    with pytest.raises(FoundlingError, match="no task is called 'piqua'"):
        run(inputs, tmp_path, monkeypatch, target=("size<0.8MB",), tasks=("piqua",))
    assert not (tmp_path / "runs/artifacts").exists()
