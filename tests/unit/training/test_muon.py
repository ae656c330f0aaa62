"""Muon's step, native and by torch's operators, against the same arithmetic in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from foundling.models.kernels import fused
from foundling.models.kernels import muon as native
from foundling.training.optimizers.muon import COEFFICIENTS, STEPS, Muon, orthogonalize

SHAPES = [(32, 32), (96, 64), (64, 160), (128, 341), (341, 128), (33, 7), (1, 50), (5, 1), (3, 40, 72), (2, 4128)]
Way = Callable[[pytest.MonkeyPatch], None]
WAYS: dict[str, Way] = {
    "in tiles": lambda patch: None,
    "native passes": lambda patch: patch.setattr(fused, "tiles", lambda: False),
    "torch": lambda patch: patch.setattr(fused, "compiled", lambda: None),
}


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The three ways of a step, as far as this machine has them."""
    chosen: str = request.param
    if fused.compiled() is None and chosen != "torch":
        pytest.skip("no C compiler, so no native kernels")
    if not fused.tiles() and chosen == "in tiles":
        pytest.skip("this CPU has no tiles for bfloat16 products (AMX)")
    WAYS[chosen](monkeypatch)
    torch.manual_seed(0)
    return chosen


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Sets the number of threads, until the end of the test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def exact_step(weight: Tensor, gradients: list[Tensor], lr: float, momentum: float, decay: float) -> Tensor:
    """The weight after steps with these gradients, all in float64, one matrix at a time."""
    buffer = torch.zeros_like(weight)
    for gradient in gradients:
        buffer = momentum * buffer + (1 - momentum) * gradient
        x = momentum * buffer + (1 - momentum) * gradient
        for matrix in x.view(-1, *x.shape[-2:]):
            matrix /= matrix.norm() + 1e-7
            for _ in range(STEPS):
                gram = matrix @ matrix.T
                a, b, c = COEFFICIENTS
                matrix.copy_(a * matrix + (b * gram + c * gram @ gram) @ matrix)
        weight = weight * (1 - lr * decay) - lr * max(1.0, weight.shape[-2] / weight.shape[-1]) ** 0.5 * x
    return weight


def steps(
    weight: Tensor, gradients: list[Tensor], dtype: torch.dtype = torch.bfloat16, copies: int = 1
) -> list[Tensor]:
    """Equal weights after the optimizer's steps."""
    parameters = [nn.Parameter(weight.clone()) for _ in range(copies)]
    optimizer = Muon(parameters, lr=0.3, momentum=0.7, weight_decay=0.2, dtype=dtype)
    for gradient in gradients:
        for parameter in parameters:
            parameter.grad = gradient.clone()
        optimizer.step()
    return [p.detach() for p in parameters]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_steps_equal_float64(way: str, shape: tuple[int, ...]) -> None:
    """Sides that no block divides, tall matrices, stacks: what the weights moved by, to the rounding of bfloat16."""
    weight, gradients = torch.randn(shape), [torch.randn(shape) * scale for scale in (1.0, 1e-3, 1e4)]
    exact = exact_step(weight.double(), [g.double() for g in gradients], 0.3, 0.7, 0.2)
    (moved,) = steps(weight, gradients)
    decayed = weight.double() * (1 - 0.3 * 0.2) ** 3
    assert float((moved.double() - exact).norm() / (exact - decayed).norm()) < 0.02
    (moved,) = steps(weight, gradients, torch.float32)
    torch.testing.assert_close(moved.double(), exact, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["badly conditioned", "of rank 3", "of rank 1", "zero"])
def test_matrices_that_are_hard(way: str, kind: str) -> None:
    """Large singular values end where they do in float64; what rounding adds in other directions is at most 1.25."""
    left, right = torch.linalg.qr(torch.randn(96, 64)).Q.double(), torch.linalg.qr(torch.randn(64, 64)).Q.double()
    values = {
        "badly conditioned": torch.logspace(0, -4, 64),
        "of rank 3": (torch.arange(64) < 3).float(),
        "of rank 1": (torch.arange(64) < 1).float() * 1e-3,
        "zero": torch.zeros(64),
    }[kind]
    gradient = (left * values @ right).float()
    exact = exact_step(torch.zeros(96, 64).double(), [gradient.double()], 0.3, 0.7, 0.0)
    (moved,) = steps(torch.zeros(96, 64), [gradient])
    size, large = 0.3 * 1.5**0.5, values > 0.1 * values.max()
    ours, wanted = ((left.T @ x.double() @ right.T).diagonal()[large] / size for x in (moved, exact))
    torch.testing.assert_close(ours, wanted, rtol=0.03, atol=0)
    assert torch.linalg.matrix_norm(moved, 2) < 1.25 * size and (kind != "zero" or not moved.any())


def test_momentum_and_weights_are_moved_in_float32(threads: Callable[[int], None]) -> None:
    """The two passes over memory, of matrices that end inside a vector, beside float64; any number of threads."""
    if fused.compiled() is None:
        pytest.skip("no C compiler, so no native kernels")
    torch.manual_seed(0)
    gradients, momenta, weights = ([torch.randn(2, 71, 59) for _ in range(3)] for _ in range(3))
    results = []
    for count in (1, 3):
        threads(count)
        moved, weighed = [m.clone() for m in momenta], [w.clone() for w in weights]
        updates, norms = native.blend(gradients, moved, 0.3)
        native.apply(weighed, updates, 0.9, 0.5)
        results.append([*moved, *weighed, updates, norms])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    for i, (gradient, momentum, weight) in enumerate(zip(gradients, momenta, weights, strict=True)):
        exact = momentum.double().lerp(gradient.double(), 0.3)
        update = exact.lerp(gradient.double(), 0.3)
        rounded = updates[2 * i : 2 * i + 2].double()
        torch.testing.assert_close(moved[i].double(), exact, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(rounded, update, rtol=2**-8, atol=1e-6)
        torch.testing.assert_close(norms[2 * i : 2 * i + 2].double(), update.norm(dim=(1, 2)), rtol=1e-6, atol=0)
        torch.testing.assert_close(weighed[i].double(), weight.double() * 0.9 - rounded * 0.5, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("copies", [1, 5])
def test_the_number_of_threads_does_not_matter(threads: Callable[[int], None], copies: int) -> None:
    """One matrix is shared out among the threads, several are taken one by each: the same, to the bit."""
    if not fused.tiles():
        pytest.skip("this CPU has no tiles for bfloat16 products (AMX)")
    torch.manual_seed(0)
    weight, gradients = torch.randn(200, 120), [torch.randn(200, 120) for _ in range(2)]
    moved = []
    for count in (1, 2, 3):
        threads(count)
        moved += steps(weight, gradients, copies=copies)
    assert all(torch.equal(moved[0], other) for other in moved[1:])


def test_tiles_are_no_further_from_float64_than_torch() -> None:
    """Both round to bfloat16 after every product: a term that is left out would still train."""
    if not fused.tiles():
        pytest.skip("this CPU has no tiles for bfloat16 products (AMX)")
    torch.manual_seed(0)
    matrices = torch.randn(4, 128, 352).bfloat16()
    exact, theirs, ours = orthogonalize(matrices.double()), orthogonalize(matrices), matrices.clone()
    assert native.suits_tiles(ours)
    native.orthogonalize_(ours, 1 / matrices.float().norm(dim=(1, 2)), COEFFICIENTS, STEPS)
    assert float((ours - exact).norm()) < 1.05 * float((theirs - exact).norm())


def test_not_a_number_is_passed_on(way: str) -> None:
    """A gradient that is not a number spoils its own matrix, and no other."""
    gradient = torch.randn(2, 64, 40)
    gradient[0, 3, 5] = torch.nan
    (moved,) = steps(torch.zeros(2, 64, 40), [gradient])
    assert moved[0].isnan().all() and not moved[1].isnan().any()
