"""The store: an artifact is whole or absent, found again by its key, and never used once damaged."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from safetensors import SafetensorError

from foundling.core.artifacts import Artifact, Store, read_artifact
from foundling.core.errors import FoundlingError
from foundling.core.garbage import delete, delete_leftover, leftovers, unneeded
from foundling.core.lives import Life, ancestors, artifact_of, write_life


def publish(store: Store, kind: str = "model", inputs: dict[str, str] | None = None, **config: object) -> Artifact:
    with store.draft(kind, "stage", 1, config, inputs or {}) as draft:
        draft.file("data/weights.bin").write_bytes(b"0123456789")
        draft.metrics["loss"] = 1.5
        key = draft.key
    found = store.find(key)
    assert found is not None
    return found


def test_published_artifact_is_found_with_its_metrics(tmp_path: Path) -> None:
    store = Store(tmp_path)
    artifact = publish(store, a=1)
    assert artifact.key == Store.key("stage", 1, {"a": 1}, {})
    assert artifact.metrics == {"loss": 1.5} and artifact.size == 10
    assert artifact.file("data/weights.bin").read_bytes() == b"0123456789"
    assert not list((tmp_path / "drafts").glob("*/files"))


def test_key_depends_on_config_inputs_and_version_only() -> None:
    base = Store.key("sft", 1, {"a": 1, "b": 2}, {"base": "x"})
    assert base == Store.key("sft", 1, {"b": 2, "a": 1}, {"base": "x"})
    assert len({base, Store.key("sft", 2, {"a": 1, "b": 2}, {"base": "x"}), Store.key("sft", 1, {"a": 1}, {})}) == 3


def test_a_failed_stage_publishes_nothing_and_keeps_its_scratch(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(RuntimeError), store.draft("model", "stage", 1, {}, {}) as draft:
        draft.file("half.bin").write_bytes(b"x")
        (draft.scratch / "checkpoint").write_bytes(b"step 7")
        raise RuntimeError("killed")
    assert store.find(draft.key) is None
    with store.draft("model", "stage", 1, {}, {}) as again:
        assert (again.scratch / "checkpoint").read_bytes() == b"step 7"
        assert not list(again.path.iterdir()), "half-written files of the dead attempt must not be published"


def test_one_flipped_byte_is_found_and_the_artifact_never_used(tmp_path: Path) -> None:
    artifact = publish(Store(tmp_path))
    file = artifact.file("data/weights.bin")
    file.write_bytes(b"0123456788")
    store = Store(tmp_path)
    assert store.verify(artifact.path) == ["data/weights.bin has changed since it was published"]
    with pytest.raises(FoundlingError, match="cannot be used"):
        artifact_of(store, artifact.key[:8])
    with pytest.raises(FoundlingError, match="cannot be used"):
        artifact_of(store, str(artifact.path))
    assert store.find(artifact.key) is None
    assert list((tmp_path / "damaged").iterdir())


def test_an_altered_manifest_is_found(tmp_path: Path) -> None:
    artifact = publish(Store(tmp_path))
    manifest = artifact.path / "manifest.json"
    manifest.write_text(manifest.read_text().replace("1.5", "1.4"))
    assert "has changed" in Store(tmp_path).verify(artifact.path)[0]


@pytest.mark.parametrize(
    ("change", "problem"), [("unlink", "is missing"), ("truncate", "has 3 bytes"), ("add", "does not belong")]
)
def test_missing_truncated_and_foreign_files_are_named(tmp_path: Path, change: str, problem: str) -> None:
    artifact = publish(Store(tmp_path))
    file = artifact.path / "data/weights.bin"
    if change == "unlink":
        file.unlink()
    elif change == "truncate":
        os.truncate(file, 3)
    else:
        (artifact.path / "extra.txt").write_text("x")
    assert problem in Store(tmp_path).verify(artifact.path)[0]


def test_resolve_takes_a_path_a_life_and_stage_a_key_prefix_or_the_newest(tmp_path: Path) -> None:
    store = Store(tmp_path)
    model = publish(store)
    write_life(store, Life("quick", stages={"base": model.key}))
    for spec in (str(model.path), "quick/base", "quick", model.key[:6], None):
        found = artifact_of(store, spec)
        assert found is not None and found.key == model.key, spec
    assert artifact_of(store, "no-such-model") is None
    with pytest.raises(FoundlingError, match=r"no stage 'bace'.*Did you mean 'base'"):
        artifact_of(store, "quick/bace")
    with pytest.raises(FoundlingError, match="kind 'model'"):
        artifact_of(store, model.key[:6], "corpus")


def test_outside_files_are_keyed_by_content(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "config.json").write_text("{}")
    first = Artifact.outside(tmp_path / "a", "model").key
    (tmp_path / "a").rename(tmp_path / "b")
    assert Artifact.outside(tmp_path / "b", "model").key == first
    (tmp_path / "b" / "config.json").write_text("{ }")
    assert Artifact.outside(tmp_path / "b", "model").key != first


def test_gc_keeps_what_a_life_or_a_kept_artifact_needs(tmp_path: Path) -> None:
    store = Store(tmp_path)
    corpus = publish(store, "corpus", n=0)
    model = publish(store, "model", {"corpus": corpus.key})
    orphan = publish(store, "model", {"corpus": corpus.key}, n=1)
    write_life(store, Life("quick", stages={"base": model.key}))
    assert unneeded(store, min_age_days=1) == [], "young artifacts stay"
    assert [a.key for a in unneeded(store, min_age_days=0)] == [orphan.key]
    delete(unneeded(store, min_age_days=0))
    assert set(ancestors(store, model.key)) == {corpus.key, model.key}


def test_a_life_keeps_its_stages_in_their_order(tmp_path: Path) -> None:
    """The last model of a life is the last of its recipe, not of the alphabet."""
    store = Store(tmp_path)
    first, last = publish(store, n=1), publish(store, n=2)
    write_life(store, Life("quick", stages={"tuned": first.key, "int4": last.key}))
    newest = artifact_of(store, None)
    assert newest is not None and newest.key == last.key


def test_gc_leaves_a_draft_that_a_stage_is_writing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(RuntimeError), store.draft("model", "stage", 1, {}, {}):
        raise RuntimeError("killed")
    assert leftovers(store, min_age_days=1) == [], "a young one may be resumed"
    (dead,) = leftovers(store, min_age_days=0)
    with store.draft("model", "stage", 1, {}, {}):
        assert not delete_leftover(dead)
        assert dead.is_dir()
    with pytest.raises(RuntimeError), store.draft("model", "stage", 1, {}, {"a": "b"}):
        raise RuntimeError("killed")
    (dead,) = leftovers(store, min_age_days=0)
    assert delete_leftover(dead)
    assert not list((tmp_path / "drafts").iterdir()), "no lock files are left either"


def test_a_full_disk_is_explained_whichever_library_met_it(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(FoundlingError, match="is full"), store.draft("model", "stage", 1, {}, {}):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    with pytest.raises(SafetensorError, match="header"), store.draft("model", "stage", 1, {}, {}):
        raise SafetensorError("invalid header")


def test_two_processes_make_one_artifact_and_the_second_says_for_whom_it_waits(tmp_path: Path) -> None:
    script = textwrap.dedent(
        """
        import sys, time
        from foundling.core.artifacts import Store
        store = Store(sys.argv[1])
        with store.draft("model", "slow", 1, {}, {}) as draft:
            if store.find(draft.key):
                print("reused")
            else:
                time.sleep(1.0)
                draft.file("x").write_text("x")
                print("made")
        """
    )
    run = [sys.executable, "-c", script, str(tmp_path)]
    both = [subprocess.Popen(run, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    results = [process.communicate(timeout=60) for process in both]
    assert sorted(out.strip() for out, _ in results) == ["made", "reused"], results
    assert any("Waiting for slow" in err and "process" in err for _, err in results)
    assert not any("Traceback" in err for _, err in results), results


def test_a_manifest_from_the_future_is_refused(tmp_path: Path) -> None:
    artifact = publish(Store(tmp_path))
    path = artifact.path / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 99}))
    with pytest.raises(FoundlingError, match="manifest format 99"):
        read_artifact(artifact.path)
