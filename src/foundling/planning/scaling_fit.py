"""Chinchilla's approach 3: the law L(N, D) fitted to runs, with bootstrap intervals on everything that follows from it.

Minimised is the sum of Huber losses of log L_predicted - log L, over a = log A, b = log B, e = log E,
alpha and beta, from a grid of starts (Hoffmann et al. 2022, eq. 3; Besiroglu et al. 2024 on its convergence). The whole
grid is scored at once; the best starts are improved together by damped reweighted least squares, the best of these is
finished by L-BFGS. Bootstrap fits start from there, all in one batch of arrays.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from foundling.core.errors import FoundlingError
from foundling.planning.answer import Answer, Figure
from foundling.planning.runs import Runs
from foundling.planning.scaling_law import Law, Numbers, beyond, optimal

DELTA = 1e-3  # of Huber's loss, for hundreds of runs: Hoffmann et al. 2022
FEWEST_BOOTSTRAPS = 20
MIN_RUNS = 6  # five parameters and something left over
NAMES = ("E", "A", "B", "alpha", "beta")
GRID = (
    (0.0, 5.0, 10.0, 15.0, 20.0, 25.0),  # log A
    (0.0, 5.0, 10.0, 15.0, 20.0, 25.0),  # log B
    (-1.0, -0.5, 0.0, 0.5, 1.0),  # log E
    (0.0, 0.5, 1.0, 1.5, 2.0),  # alpha
    (0.0, 0.5, 1.0, 1.5, 2.0),  # beta
)  # Hoffmann et al. 2022, appendix D.3
STARTS = 24
LEVEL = 0.95
LONGEST_ROUNDS, BOOTSTRAP_ROUNDS = 100, 40


@dataclass(frozen=True)
class Prediction:
    """A loss with its 95% interval, noise of a single run included."""

    loss: float
    low: float
    high: float


@dataclass(frozen=True)
class Fit:
    """A fitted law, its samples included.

    Attributes:
        huber: the minimised sum.
        residuals: log L_predicted - log L of each run.
    """

    law: Law
    huber: float
    residuals: np.ndarray
    runs: Runs
    seed: int
    delta: float = DELTA

    def intervals(self) -> dict[str, tuple[float, float]]:
        """95% percentile intervals of E, A, B, alpha, beta."""
        edges = np.quantile(np.array(self.law.samples), [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
        return {name: (float(edges[0, i]), float(edges[1, i])) for i, name in enumerate(NAMES)}

    def predict(self, parameters: float, tokens: float) -> Prediction:
        """The loss of a run that was not fitted. The interval adds a run's own noise to the law's uncertainty."""
        E, A, B, alpha, beta = np.array(self.law.samples).T
        laws = E + A / parameters**alpha + B / tokens**beta
        noise = np.random.default_rng(self.seed).choice(self.residuals, size=len(laws))
        low, high = np.quantile(laws * np.exp(-noise), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        return Prediction(self.law.loss(parameters, tokens), float(low), float(high))


def fit_law(
    runs: Runs, *, bootstraps: int = 200, seed: int = 0, source: str = "fitted runs", delta: float = DELTA
) -> Fit:
    """Fit the law to finished runs.

    Args:
        delta: log loss up to which Huber's loss is a square: about the noise of a run, or less if there are many.
        bootstraps: resamplings of the runs, for the intervals.

    Raises:
        FoundlingError: too few bootstraps or runs, or too few different sizes or lengths to tell five parameters apart.
    """
    if bootstraps < FEWEST_BOOTSTRAPS:
        what = f"{bootstraps} bootstrap fits are too few for an interval"
        raise FoundlingError(what, f"{FEWEST_BOOTSTRAPS} or more were expected")
    _require_enough(runs)
    _require_a_loss(runs)
    x, y, target = np.log(runs.parameters), np.log(runs.tokens), np.log(runs.loss)
    ones = np.ones((STARTS, len(target)))
    grid = np.stack(np.meshgrid(*GRID, indexing="ij"), -1).reshape(-1, len(GRID))
    first = np.argsort(_huber(_model(grid, x, y)[0] - target, ones[0], delta))[:STARTS]
    better, scores = _descend(grid[first], x, y, target, ones, LONGEST_ROUNDS, delta)
    theta, huber = _finish(better[scores.argmin()], x, y, target, delta)
    if theta[3] <= 0 or theta[4] <= 0:
        raise FoundlingError("the losses do not fall with size and tokens", "these runs follow no such law")
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(len(target), ones[0] / len(target), size=bootstraps).astype(float)
    samples, _ = _descend(np.repeat(theta[None], bootstraps, 0), x, y, target, weights, BOOTSTRAP_ROUNDS, delta)
    samples = samples[(samples[:, 3] > 0) & (samples[:, 4] > 0)]
    found, spread = _natural(theta), tuple(_natural(sample) for sample in samples)
    law = Law(*found, source=source, largest=float(runs.flops.max()), samples=spread)
    return Fit(law, huber, _model(theta[None], x, y)[0][0] - target, runs, seed, delta)


def _natural(theta: np.ndarray) -> Numbers:
    """E, A, B, alpha, beta of log A, log B, log E, alpha, beta."""
    a, b, e = np.exp(theta[:3])
    return float(e), float(a), float(b), float(theta[3]), float(theta[4])


def huber_loss(law: Law, runs: Runs) -> float:
    """The objective of another law on these runs, to compare fits."""
    theta = np.array([[np.log(law.A), np.log(law.B), np.log(law.E), law.alpha, law.beta]])
    predicted, _ = _model(theta, np.log(runs.parameters), np.log(runs.tokens))
    return float(_huber(predicted - np.log(runs.loss), np.ones(len(runs)), DELTA)[0])


def _require_enough(runs: Runs) -> None:
    if len(runs) < MIN_RUNS:
        what = f"{len(runs)} runs are too few for a law of five parameters"
        raise FoundlingError(what, f"{MIN_RUNS} or more were expected", "Train more sizes and lengths")
    for name, values in (("sizes", runs.parameters), ("token counts", runs.tokens)):
        different = len(np.unique(np.round(np.log(values), 3)))
        if different < 3:
            what = f"the runs have only {different} different {name}"
            raise FoundlingError(what, "3 or more were expected: a curve through two points says nothing")


def _require_a_loss(runs: Runs) -> None:
    order = runs.flops.argsort().argsort(), runs.loss.argsort().argsort()
    trend = float(np.corrcoef(*order)[0, 1])
    if trend > 0 and runs.loss.max() <= 1:
        what = f"these values rise with compute (rank correlation {trend:.2f}) and stay below 1: they are scores"
        why = "a score can stay at chance and then jump, or saturate, so that no law of the loss extrapolates it"
        raise FoundlingError(
            what, why, "Fit the loss of the right answers, and read the score off where it was measured"
        )


def _model(theta: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """log L (fits, runs) and the terms' shares of L (3, fits, runs), of theta (fits, 5) and x, y = log N, log D."""
    a, b, e, alpha, beta = theta.T[:, :, None]
    terms = np.stack([a - alpha * x, b - beta * y, np.broadcast_to(e, (len(theta), len(x)))])
    top = terms.max(0)
    parts = np.exp(terms - top)
    total = parts.sum(0)
    return top + np.log(total), parts / total


def _huber(residuals: np.ndarray, weights: np.ndarray, delta: float) -> np.ndarray:
    size = np.abs(residuals)
    each = np.where(size <= delta, 0.5 * residuals**2, delta * (size - 0.5 * delta))
    return (each * weights).sum(-1)


def _descend(
    theta: np.ndarray, x: np.ndarray, y: np.ndarray, target: np.ndarray, weights: np.ndarray, rounds: int, delta: float
) -> tuple[np.ndarray, np.ndarray]:
    """Levenberg-Marquardt with Huber's weights, on all fits at once; each step is taken only where it lowers the sum.

    Args:
        theta: (fits, 5) starts.
        weights: (fits, runs) how often each run counts.
    """
    theta, damping = theta.copy(), np.full(len(theta), 1e-2)
    predicted, parts = _model(theta, x, y)
    residuals = predicted - target
    score = _huber(residuals, weights, delta)
    for _ in range(rounds):
        jacobian = np.stack([parts[0], parts[1], parts[2], -parts[0] * x, -parts[1] * y], -1)
        weighted = jacobian * (weights * np.minimum(1, delta / np.maximum(np.abs(residuals), 1e-30)))[..., None]
        hessian = np.swapaxes(weighted, 1, 2) @ jacobian
        diagonal = np.einsum("bii->bi", hessian)
        ridge = damping[:, None] * (diagonal + 1e-9 * diagonal.max(1, keepdims=True) + 1e-300)
        gradient = (weighted * residuals[..., None]).sum(1)
        step = np.linalg.solve(hessian + ridge[:, :, None] * np.eye(5), gradient[..., None])[..., 0]
        moved = theta - step
        new_predicted, new_parts = _model(moved, x, y)
        new_residuals = new_predicted - target
        new_score = _huber(new_residuals, weights, delta)
        lower = new_score < score
        gain = np.where(lower, (score - new_score) / np.maximum(score, 1e-300), 0.0)
        theta[lower], residuals[lower], parts[:, lower] = moved[lower], new_residuals[lower], new_parts[:, lower]
        score = np.where(lower, new_score, score)
        damping = np.clip(np.where(lower, damping / 3, damping * 4), 1e-7, 1e9)
        if gain.max() < 1e-9 and (lower | (damping > 1e6)).all():
            break
    return theta, score


def _finish(
    theta: np.ndarray, x: np.ndarray, y: np.ndarray, target: np.ndarray, delta: float
) -> tuple[np.ndarray, float]:
    """L-BFGS from a good start, with the exact gradient."""
    from scipy.optimize import minimize

    def objective(point: np.ndarray) -> tuple[float, np.ndarray]:
        predicted, parts = _model(point[None], x, y)
        residuals, (a, b, e) = (predicted - target)[0], parts[:, 0]
        pull = np.clip(residuals, -delta, delta)
        gradient = np.array([pull @ a, pull @ b, pull @ e, -(pull * a) @ x, -(pull * b) @ y])
        return float(_huber(residuals, np.ones(len(x)), delta)) / delta, gradient / delta

    found = minimize(
        objective, theta, jac=True, method="L-BFGS-B", options={"maxiter": 3000, "ftol": 1e-15, "gtol": 1e-10}
    )
    return found.x, float(found.fun) * delta


def describe(fit: Fit, budgets: list[float], targets: list[tuple[float, float]]) -> Answer:
    """The fitted law, what it says about budgets and about runs that were not made."""
    law, spans = fit.law, fit.intervals()
    figures = [Figure(name, getattr(law, name), "", *spans[name]) for name in NAMES]
    figures.append(Figure("N_opt grows as C^a, a", _growth(law), "", *law.interval(_growth)))
    figures.append(Figure("spread of the residuals (log loss)", float(fit.residuals.std())))
    warnings = []
    for flops in budgets:
        figures += [replace(f, name=f"{f.name} at {flops:.3g} FLOP") for f in optimal(law, flops).figures[:4]]
        warnings += beyond(law, flops)
    for parameters, tokens in targets:
        guess = fit.predict(parameters, tokens)
        figures.append(
            Figure(f"loss of {parameters:.3g} parameters on {tokens:.3g} tokens", guess.loss, "", guess.low, guess.high)
        )
        warnings += beyond(law, 6 * parameters * tokens)
    return Answer(
        f"A law fitted to {len(fit.runs)} runs, {fit.runs.flops.min():.2g} to {fit.runs.flops.max():.2g} FLOP",
        figures,
        [
            f"L = {law.formula()}",
            f"minimise Σ Huber(log L_predicted - log L), delta = {fit.delta:g}, from a grid of starts",
        ],
        [
            f"95% intervals from {len(law.samples)} bootstrap fits; a predicted loss includes one run's noise",
            "only losses extrapolate: accuracies may stay at chance and then jump, which are refused here",
        ],
        [law.source, "Hoffmann et al. 2022, arXiv:2203.15556; Besiroglu et al. 2024, arXiv:2404.10102"],
        warnings,
    )


def _growth(law: Law) -> float:
    return law.beta / (law.alpha + law.beta)
