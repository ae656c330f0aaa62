"""A whole life through the real command line, on the tiny recipe: reuse, kill and resume, damage, bad input."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from foundling.core.artifacts import Store, is_volatile
from foundling.core.lives import read_life
from foundling.tokenization.tokenizer import Tokenizer

BASE_STAGES = {"corpus", "tokenizer", "tokens", "base"}


def foundling(*arguments: str, store: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "foundling.cli.main", *arguments, "--store", str(store)]
    return subprocess.run(command, capture_output=True, text=True, timeout=280, env=environment(), **options)


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "FOUNDLING_STORE": ""}


def stage_keys(store: Path, life: str = "tiny") -> dict[str, str]:
    found = read_life(Store(store), life)
    assert found is not None
    return found.stages


def result_files(store: Path) -> dict[str, str]:
    """Every file of every artifact that must be bit-identical between two runs: name -> sha256."""
    artifacts = [a for a in Store(store).artifacts() if a.kind != "report"]
    return {
        f"{a.kind}/{a.key}/{name}": entry["sha256"]
        for a in artifacts
        for name, entry in a.manifest["files"].items()
        if not is_volatile(name)
    }


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("life")
    done = foundling("run", "tiny", store=store)
    assert done.returncode == 0, done.stderr
    return store


def test_a_second_run_reuses_every_artifact(life: Path) -> None:
    before = stage_keys(life)
    started = time.monotonic()
    again = foundling("run", "tiny", store=life)
    assert again.returncode == 0, again.stderr
    assert stage_keys(life) == before
    assert again.stderr.count("reused") >= len(before) - 1
    assert time.monotonic() - started < 60


def test_set_reruns_only_what_lies_downstream(life: Path) -> None:
    before = stage_keys(life)
    changed = foundling("run", "tiny", "--set", "sft.epochs=2", store=life)
    assert changed.returncode == 0, changed.stderr
    after = stage_keys(life)
    same = {name for name in before if before[name] == after[name]}
    assert same == BASE_STAGES | {"control", "evaluate-base", "evaluate-control"}
    assert foundling("run", "tiny", store=life).returncode == 0
    assert {k: v for k, v in stage_keys(life).items() if k != "report"} == {
        k: v for k, v in before.items() if k != "report"
    }


def test_a_base_goes_on_with_objectives_that_need_what_it_lacks(life: Path) -> None:
    """A decoder learns to fill in, then to see both ways: rows for new tokens, none of which takes another's place."""
    keys = stage_keys(life)
    options = ["--tokens", keys["tokens"], "--steps", "3", "--keep-every", "2", "--json"]
    base, sizes = keys["base"], []
    for objective in ("fill_in_the_middle", "masked"):
        made = foundling("pretrain", *options, "--objective", objective, "--base", base, store=life)
        assert made.returncode == 0, made.stderr
        told = json.loads(made.stdout)
        base, path = told["key"], Path(told["path"])
        sizes.append(json.loads((path / "config.json").read_text())["vocab_size"])
    tokenizer, kept = Tokenizer.load(path), Tokenizer.load(path / "checkpoints/step-00000002")
    assert kept.vocab_size == tokenizer.vocab_size
    ids = [tokenizer.id_of(name) for name in ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|mask|>")]
    assert ids == list(range(sizes[1] - 4, sizes[1])) and sizes[0] == sizes[1] - 1
    refused = foundling("generate", "x", "--model", base, store=life)
    assert refused.returncode == 2 and "does not continue texts" in refused.stderr


def test_the_report_is_one_file_that_needs_nothing_else(life: Path) -> None:
    report = Store(life).find(stage_keys(life)["report"])
    assert report is not None
    html = report.file("report.html").read_text()
    for section in ("At a glance", "Corpus", "Training", "Evaluation", "Compression", "Plan against actual", "Lineage"):
        assert f"<h2>{section}</h2>" in html
    assert not re.search(r"(src|href|srcset)=[\"']?(https?:)?//|url\((?!#)|@import|<script", html), (
        "it must need nothing else"
    )


@pytest.mark.parametrize("moment", ["corpus", "base", "tuned"])
def test_a_killed_life_goes_on_to_the_same_bytes(life: Path, tmp_path: Path, moment: str) -> None:
    """SIGKILL in the middle of a stage, then the same command: every file as in an undisturbed run."""
    command = [sys.executable, "-m", "foundling.cli.main", "run", "tiny", "--store", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment())
    key = stage_keys(life)[moment]
    deadline = time.monotonic() + 200
    while not (tmp_path / "drafts" / key / "scratch").is_dir() and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.3)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not list(tmp_path.glob(f"artifacts/*/{key}")), f"{moment} was already published: the kill came too late"
    again = foundling("run", "tiny", store=tmp_path)
    assert again.returncode == 0, again.stderr
    expected = result_files(life)
    for name, sha256 in result_files(tmp_path).items():
        assert expected[name] == sha256, f"{name} differs after the kill"


def test_a_flipped_byte_is_found_by_verify_and_made_anew(life: Path) -> None:
    key = stage_keys(life)["sft"]
    file = Store(life).root / "artifacts" / "model" / key / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data))
    checked = foundling("verify", store=life)
    assert checked.returncode == 2 and f"model/{key}" in checked.stdout and "has changed" in checked.stdout
    refused = foundling("generate", "x", "--model", "tiny/sft", "--max-tokens", "1", store=life)
    assert refused.returncode == 2 and "cannot be used" in refused.stderr and "Traceback" not in refused.stderr
    assert foundling("run", "tiny", store=life).returncode == 0
    assert foundling("verify", store=life).returncode == 0


def test_generate_and_lineage_find_the_life(life: Path) -> None:
    text = foundling("generate", "def ", "--model", "tiny/base", "--max-tokens", "4", "--json", store=life)
    assert text.returncode == 0, text.stderr
    assert len(json.loads(text.stdout)["tokens"]) == 4
    lineage = foundling("lineage", "tiny/int4", store=life)
    assert lineage.returncode == 0
    for name in ("tiny/int4", "tiny/tuned", "tiny/sft", "tiny/base", "tiny/tokens", "tiny/corpus"):
        assert name in lineage.stdout
    listed = json.loads(foundling("list", "--json", "--kind", "model", store=life).stdout)
    assert {row["name"] for row in listed} >= {"tiny/base", "tiny/sft", "tiny/int8"}


def test_transformers_loads_what_a_life_makes(life: Path) -> None:
    transformers = pytest.importorskip("transformers")
    path = Store(life).root / "artifacts" / "model" / stage_keys(life)["tuned"]
    model = transformers.AutoModelForCausalLM.from_pretrained(path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    chat = [{"role": "user", "content": "hi"}]
    ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    new = model.generate(**ids, max_new_tokens=3, min_new_tokens=3, do_sample=False)
    assert new.shape[1] == ids["input_ids"].shape[1] + 3
    assert model.config.model_type == "qwen3"
