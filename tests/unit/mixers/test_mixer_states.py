"""Every recurrent mixer's training, decoding, packed and batched chunked prefill forms are the same function."""

from __future__ import annotations

import pytest
import torch
from tests.unit.mixers.mixer_cases import CASES, cached, inputs, make

from foundling.models.context import Context

TOLERANCE = {"rtol": 2e-4, "atol": 2e-5}
names = pytest.mark.parametrize("name", list(CASES))


@names
def test_decoding_token_by_token_equals_the_full_pass(name: str) -> None:
    """Guards against a parallel form and a recurrence that drift apart (a lost convolution window, a wrong decay)."""
    mixer, x = make(name), inputs(2, 19)
    with torch.no_grad():
        full = mixer(x, Context.full(2, 19))
        state = mixer.new_state(5, 1, 1, torch.float32, "cpu")
        steps = [mixer(x[:, t : t + 1], cached([t, t], [1, 1], [3, 1], 1), state) for t in range(19)]
    torch.testing.assert_close(torch.cat(steps, 1), full, **TOLERANCE)


@names
def test_packed_documents_do_not_see_each_other(name: str) -> None:
    """Guards against state, convolution taps or time shifts that leak over a document's start."""
    mixer, x = make(name), inputs(2, 23)
    segments = torch.tensor([[0] * 6 + [1] * 1 + [2] * 16, [0] * 11 + [1] * 9 + [-1] * 3])
    with torch.no_grad():
        packed = mixer(x, Context.packed(segments))
        for row, start, end in [(0, 0, 6), (0, 6, 7), (0, 7, 23), (1, 0, 11), (1, 11, 20)]:
            alone = mixer(x[row : row + 1, start:end], Context.full(1, end - start))
            torch.testing.assert_close(packed[row : row + 1, start:end], alone, **TOLERANCE)


@names
def test_chunked_prefill_of_rows_with_different_lengths(name: str) -> None:
    """Guards against padding that moves the state, rows that read each other's slots, and unclean slots."""
    mixer, x = make(name), inputs(3, 20)
    pieces = [([7, 3, 0], [0, 0, 0]), ([5, 9, 8], [7, 3, 0]), ([1, 1, 1], [12, 12, 8]), ([2, 7, 0], [13, 13, 9])]
    with torch.no_grad():
        full = mixer(x, Context.full(3, 20))
        state = mixer.new_state(6, 1, 1, torch.float32, "cpu")
        for part in state:
            part.fill_(3.0)  # what a finished request left behind
        for new, done in pieces:
            time = max(new)
            piece = torch.full((3, time, x.shape[2]), 9.0)
            for row in range(3):
                piece[row, : new[row]] = x[row, done[row] : done[row] + new[row]]
            y = mixer(piece, cached(done, new, [4, 0, 2], time), state)
            for row in range(3):
                expected = full[row, done[row] : done[row] + new[row]]
                torch.testing.assert_close(y[row, : new[row]], expected, **TOLERANCE)


@names
def test_much_padding_leaves_a_state_alone(name: str) -> None:
    """Guards against a state that padding decays and a correction brings back: what a row gets depends on its batch."""
    mixer, x = make(name), inputs(1, 6)
    answers = []
    with torch.no_grad():
        for time in (5, 2000):  # alone, and padded as far as a long neighbour reaches
            state = mixer.new_state(2, 1, 1, torch.float32, "cpu")
            row = torch.zeros(1, time, x.shape[2])
            row[:, :5] = x[:, :5]
            mixer(row, cached([0], [5], [1], time), state)
            answers.append(mixer(x[:, 5:], cached([5], [1], [1], 1), state))
    torch.testing.assert_close(*answers, rtol=1e-5, atol=1e-6)


@names
def test_state_does_not_grow_with_context(name: str) -> None:
    """Guards against a recurrent mixer that keeps a history: its state is one entry per slot, whatever `blocks`."""
    mixer = make(name)
    small, large = (mixer.new_state(3, blocks, 16, torch.float32, "cpu") for blocks in (1, 1000))
    assert [part.shape for part in small] == [part.shape for part in large]
    assert all(part.shape[0] == 3 for part in small)


@names
def test_gradients_flow_to_every_parameter(name: str) -> None:
    """Guards against a detached parameter, and against NaN gradients from masks (0 * inf) in the packed form."""
    mixer, x = make(name), inputs(2, 23).requires_grad_()
    segments = torch.tensor([[0] * 6 + [1] * 17, [0] * 11 + [1] * 12])
    mixer(x, Context.packed(segments)).square().sum().backward()
    for parameter, grad in [("x", x.grad), *((key, part.grad) for key, part in mixer.named_parameters())]:
        assert grad is not None and bool(grad.isfinite().all()) and bool(grad.any()), parameter


@names
@pytest.mark.parametrize("how", ["autocast", "weights"])
def test_bf16_training_is_close_to_fp32(name: str, how: str) -> None:
    """Guards against mixed dtypes inside a mixer, and against a recurrence that is itself run in bf16."""
    mixer, x = make(name), inputs(2, 23)
    expected = mixer(x, Context.full(2, 23))
    if how == "weights":
        mixer, x = mixer.to(torch.bfloat16), x.to(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"):
        y = mixer(x.requires_grad_(), Context.full(2, 23))
    y.float().square().sum().backward()
    assert x.grad is not None and bool(x.grad.isfinite().all())
    error = (y.float() - expected).square().mean().sqrt() / expected.square().mean().sqrt()
    assert error < 0.05, float(error)
