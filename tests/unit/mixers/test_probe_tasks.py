"""The probing tasks are what they say, and are solved by rules that know the answer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from foundling.core.artifacts import Draft
from foundling.core.errors import FoundlingError
from foundling.core.rng import numpy_rng
from foundling.core.stages import Inputs
from foundling.studies.config import ProbesConfig
from foundling.studies.probes.run import probe_architectures
from foundling.studies.probes.tasks import COPIED, KEYS, SYMBOLS, TASKS, classification
from foundling.studies.probes.translation import START, WORDS, sentences


@pytest.mark.parametrize("name", list(TASKS))
def test_rows_are_a_function_of_the_seed_and_in_range(name: str) -> None:
    """Guards against tokens outside the vocabulary and tasks that differ from run to run."""
    task = TASKS[name]
    first, again, other = (task.draw(numpy_rng(seed), 6, task.train_time) for seed in (0, 0, 1))
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    assert not (first[0] == other[0]).all()
    tokens, targets, counted = first
    assert tokens.shape == targets.shape == counted.shape == (6, task.train_time)
    assert tokens.min() >= 0 and max(tokens.max(), (targets * counted).max()) < task.vocab_size
    assert (counted.sum(1) > 0).all()


def test_recall_asks_every_key_for_its_own_value() -> None:
    """Guards against targets that are shifted by one, which a model would learn as another task."""
    tokens, targets, counted = TASKS["associative_recall"].draw(numpy_rng(0), 5, 32)
    for row in range(5):
        memory = dict(zip(tokens[row, :16:2], tokens[row, 1:16:2], strict=True))
        assert len(memory) == 8 and max(memory) < KEYS
        asked = np.flatnonzero(counted[row])
        assert len(asked) == 8 and all(targets[row, t] == memory[tokens[row, t]] for t in asked)


def test_induction_and_copying_have_one_answer() -> None:
    """Guards against ambiguous rows, on which no model could be right."""
    tokens, targets, _ = TASKS["induction"].draw(numpy_rng(0), 50, 64)
    for row in range(50):
        places = np.flatnonzero(tokens[row] == SYMBOLS)
        assert len(places) == 2 and places[1] == 63 and targets[row, 63] == tokens[row, places[0] + 1]
    tokens, targets, counted = TASKS["copying"].draw(numpy_rng(0), 4, 128)
    assert (tokens[:, :COPIED] == targets[:, -COPIED:]).all() and counted.sum() == 4 * COPIED


def test_wave_classes_can_be_told_by_their_spectrum() -> None:
    """Guards against noise so strong that the classes are lost, and so weak that a few samples are enough."""
    tokens, targets, _ = classification(numpy_rng(0), 200, 256)
    spectrum = np.abs(np.fft.rfft(tokens - tokens.mean(1, keepdims=True), axis=1))
    bins = np.round(np.arange(1, 9) * 0.02 * 256).astype(int)
    assert (spectrum[:, bins].argmax(1) == targets[:, -1]).mean() > 0.95


def test_translations_reverse_within_their_own_length() -> None:
    """Guards against padding inside the reversed sentence."""
    batch = sentences(numpy_rng(0), 20, 1, 12)
    words: dict[int, int] = {}
    for row, length in enumerate(batch.extra["lengths"].tolist()):
        source, target = batch.tokens[row, :length].tolist(), batch.targets[row, :length].tolist()
        assert (batch.tokens[row, length:] > WORDS).all() and batch.loss_mask[row].sum() == length
        assert batch.extra["given"][row, 0] == START
        for ours, theirs in zip(reversed(source), target, strict=True):
            assert words.setdefault(ours, theirs) == theirs
    assert len(set(words.values())) == len(words)


def test_a_probe_run_reports_every_design(tmp_path: Path) -> None:
    """Guards against a design or a task that is left out of the report."""
    config = ProbesConfig(
        tasks=("induction", "translation"), seeds=1, dim=16, layers=1, steps=2, batch_size=2, test_rows=4
    )
    draft = Draft(tmp_path / "path", tmp_path / "scratch", "key")
    draft.path.mkdir()
    probe_architectures(config, Inputs({}), draft)
    report = (draft.path / "report.md").read_text()
    assert all(f"| {name} |" in report for name in (*TASKS["induction"].designs, "fixed vector"))
    assert (draft.path / "induction.png").exists() and (draft.path / "translation.png").exists()
    with pytest.raises(FoundlingError, match="Did you mean 'copying'"):
        probe_architectures(ProbesConfig(tasks=("coping",)), Inputs({}), draft)
