"""Data order: a pure function of (seed, step), every window once an epoch."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import write_tokens

from foundling.core.errors import FoundlingError
from foundling.training.objectives.causal import Causal
from foundling.training.order import Permutation
from foundling.training.token_files import TokenSplit


@given(size=st.integers(1, 3000), seed=st.integers(0, 2**32))
@settings(max_examples=50, deadline=None)
def test_permutation_hits_everything_once(size: int, seed: int) -> None:
    """A repeated window is trained on twice while another is never seen."""
    assert sorted(Permutation(size, seed)[np.arange(size)]) == list(range(size))


def test_permutation_is_random_and_seeded() -> None:
    """An order that follows the stream correlates the rows of a batch."""
    order = Permutation(10_000, "a")[np.arange(10_000)]
    assert abs(np.corrcoef(order, np.arange(10_000))[0, 1]) < 0.05
    assert not np.array_equal(order, Permutation(10_000, "b")[np.arange(10_000)])


@pytest.fixture
def split(tmp_path: Path) -> TokenSplit:
    return TokenSplit(write_tokens(tmp_path), "train")


def test_batch_is_computed_directly(split: TokenSplit) -> None:
    """Resuming at step n must give the batch that an uninterrupted run had there."""
    one, other = Causal(split, 16, 4, 7), Causal(split, 16, 4, 7)
    walked = [one.batch(step) for step in range(30)][-1]
    assert walked.tokens.equal(other.batch(29).tokens) and walked.sources == other.batch(29).sources
    assert not walked.tokens.equal(Causal(split, 16, 4, 8).batch(29).tokens)


def test_an_epoch_covers_the_stream_once(split: TokenSplit) -> None:
    """Windows must not overlap within an epoch, and the next epoch must cut elsewhere."""
    objective = Causal(split, 16, 1, 0)
    windows = objective.windows
    first = windows.starts(np.arange(windows.count))
    assert len(set(first)) == windows.count and set(np.diff(sorted(first))) == {16}
    second = windows.starts(np.arange(windows.count, 2 * windows.count))
    assert first.min() != second.min() and max(first.max(), second.max()) + 17 <= len(split.stream)


def test_a_curriculum_takes_each_phase_for_its_share_of_the_steps(tmp_path: Path) -> None:
    """Three phases of 40, 30 and 30% of the tokens, for half, a quarter and a quarter of the rows."""
    folder = write_tokens(tmp_path, documents=80)
    about = json.loads((folder / "tokens.json").read_text())
    total = about["splits"]["train"]["tokens"]
    sizes = [int(0.4 * total), int(0.3 * total)]
    sizes.append(total - sum(sizes))
    phases = [{"share": share, "tokens": size} for share, size in zip((0.5, 0.25, 0.25), sizes, strict=True)]
    (folder / "tokens.json").write_text(json.dumps({**about, "phases": phases}))
    planned = TokenSplit(folder, "train", planned_rows=80)
    windows = Causal(planned, 16, 4, 0).windows
    starts = windows.starts(np.arange(100))
    edges = np.cumsum([0, *sizes])
    expected = np.repeat([0, 1, 2], [40, 20, 40])  # what goes beyond the plan stays in the last phase
    assert (np.searchsorted(edges, starts, side="right") - 1 == expected).all()
    assert (starts + 17 <= edges[expected + 1]).all(), "a window reaches into the next phase"
    assert windows.of_step(7, 4).tolist() == starts[28:32].tolist()
    plain = TokenSplit(folder, "train")  # evaluation and studies that plan no rows see one stream
    assert plain.phases == []


def test_targets_are_the_next_tokens_and_segments_the_documents(split: TokenSplit) -> None:
    """An off-by-one here trains a copier; a wrong segment lets documents see each other."""
    objective = Causal(split, 16, 4, 0, document_mask=True)
    batch = objective.batch(3)
    assert batch.targets[:, :-1].equal(batch.tokens[:, 1:])
    assert batch.segments is not None
    begins = (batch.tokens[:, 1:] == split.eot_id).numpy()
    assert np.array_equal(np.diff(batch.segments.numpy()) == 1, begins)


def test_packed_rows_hold_every_token_once_and_know_what_follows_it(split: TokenSplit) -> None:
    """Best fit must lose no token, cut no document that fits, and score each by what its own document says next."""
    plain, packed = Causal(split, 64, 4, 0), Causal(split, 64, 4, 0, best_fit=True, document_mask=True)
    rows = packed.windows
    places = rows.positions(rows.starts(np.arange(rows.count)))
    assert sorted(places[places >= 0]) == list(range(len(split.stream)))
    lengths = np.diff(split.starts)
    assert rows.split_documents == (lengths > 64).sum() < plain.windows.split_documents
    assert rows.padding == (places < 0).mean() < 0.2
    held = [set(split.documents_of(row[row >= 0])) for row in places]
    assert all(sum(document in row for row in held) == 1 for document in np.flatnonzero(lengths <= 64))
    following = np.append(split.stream, split.eot_id)
    for step in range(3):
        batch, at = packed.batch(step), rows.positions(rows.of_step(step, 4))
        assert batch.loss_mask.numpy().astype(bool).tolist() == (at >= 0).tolist()
        assert (batch.tokens.numpy()[at >= 0] == split.stream[at[at >= 0]]).all()
        assert (batch.targets.numpy()[at >= 0] == following[at[at >= 0] + 1]).all()
        assert batch.segments is not None and (batch.segments.numpy()[at < 0] == -1).all()
        begins = (batch.tokens.numpy()[:, 1:] == split.eot_id) & (at[:, 1:] >= 0)
        assert ((np.diff(batch.segments.numpy()) != 0) & (at[:, 1:] >= 0) >= begins).all()
    assert packed.batch(2).sources[0].startswith("train document")


def test_too_little_text_is_refused(split: TokenSplit) -> None:
    """A context longer than the text must be one clear sentence, not an empty range."""
    with pytest.raises(FoundlingError, match="too few for a context"):
        Causal(split, 4096, 4, 0)
