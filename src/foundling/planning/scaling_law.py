"""What a law L(N, D) = E + A/N^alpha + B/D^beta says: the best split of compute, over-training, repeated data.

N counts parameters, D training tokens, C = 6ND their FLOPs (Hoffmann et al. 2022, arXiv:2203.15556, eq. 2-4).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from foundling.core.errors import FoundlingError, nearest
from foundling.planning.answer import Answer, Figure, not_negative, positive

FLOPS_PER_PARAMETER = 6.0
RULE_TOKENS_PER_PARAMETER = 20.0
LEVEL = 0.95
Numbers = tuple[float, float, float, float, float]  # E, A, B, alpha, beta
REPEAT_DECAY, EXCESS_DECAY = 15.39, 5.31  # R*_D and R*_N of Muennighoff et al. 2023, arXiv:2305.16264, eq. 5-6 and A


@dataclass(frozen=True)
class Split:
    """A size and the tokens it is trained on."""

    parameters: float
    tokens: float
    loss: float

    @property
    def flops(self) -> float:
        """C = 6ND."""
        return FLOPS_PER_PARAMETER * self.parameters * self.tokens


@dataclass(frozen=True)
class Law:
    """L(N, D) = E + A/N^alpha + B/D^beta, and where its numbers come from.

    Attributes:
        largest: C of the largest run it was fitted to; 0: unknown.
        samples: (E, A, B, alpha, beta) of bootstrap fits, for intervals; empty: none are known.
    """

    E: float
    A: float
    B: float
    alpha: float
    beta: float
    source: str = ""
    largest: float = 0.0
    samples: Sequence[Numbers] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        for name in ("A", "B", "alpha", "beta"):
            positive(f"the law's {name}", getattr(self, name))
        not_negative("the law's E", self.E)

    def loss(self, parameters: float, tokens: float) -> float:
        """The law itself."""
        return self.E + self.A / parameters**self.alpha + self.B / tokens**self.beta

    def formula(self) -> str:
        """As text."""
        return f"{self.E:.4g} + {self.A:.4g}/N^{self.alpha:.4g} + {self.B:.4g}/D^{self.beta:.4g}"

    def interval(self, value: Callable[[Law], float]) -> tuple[float, float] | tuple[None, None]:
        """The 95% bootstrap interval of anything that follows from the law; (None, None) without samples."""
        if not self.samples:
            return None, None
        values = sorted(value(Law(*sample)) for sample in self.samples)
        edge = round((1 - LEVEL) / 2 * (len(values) - 1))
        return values[edge], values[-1 - edge]

    def optimum(self, flops: float) -> Split:
        """The size and tokens of least loss at C = 6ND FLOPs, in closed form (Hoffmann et al. 2022, eq. 4)."""
        c = positive("the number of FLOPs", flops) / FLOPS_PER_PARAMETER
        g = (self.alpha * self.A / (self.beta * self.B)) ** (1 / (self.alpha + self.beta))
        parameters = g * c ** (self.beta / (self.alpha + self.beta))
        return Split(parameters, c / parameters, self.loss(parameters, c / parameters))

    def optimum_parameters(self, tokens: float) -> float:
        """The size for which that many tokens are the optimum: N = G^((α+β)/α) D^(β/α)."""
        return (self.alpha * self.A / (self.beta * self.B)) ** (1 / self.alpha) * tokens ** (self.beta / self.alpha)

    def tokens_for(self, loss: float, parameters: float) -> float:
        """The tokens with which that size reaches a loss; infinity if it cannot."""
        left = loss - self.E - self.A / parameters**self.alpha
        return (self.B / left) ** (1 / self.beta) if left > 0 else math.inf

    def flops_for(self, loss: float) -> float:
        """The least FLOPs that reach a loss.

        Raises:
            FoundlingError: the loss lies at or below E.
        """
        if loss <= self.E:
            raise FoundlingError(f"a loss of {loss:g} is out of reach", f"the law's floor is {self.E:g}")
        low, high = 1.0, 1e60
        for _ in range(200):
            middle = math.sqrt(low * high)
            low, high = (middle, high) if self.optimum(middle).loss > loss else (low, middle)
        return high


LAWS: dict[str, Law] = {
    "besiroglu": Law(1.8172, 482.01, 2085.43, 0.3478, 0.3658, "Besiroglu et al. 2024, arXiv:2404.10102", 1.3e22),
    "hoffmann": Law(1.6934, 406.4, 410.7, 0.3392, 0.2849, "Hoffmann et al. 2022, arXiv:2203.15556, eq. 10", 1.3e22),
    "muennighoff": Law(1.87, 521.0, 1488.0, 0.353, 0.353, "Muennighoff et al. 2023, arXiv:2305.16264, C4", 1e22),
}


def law_named(spec: str) -> Law:
    """A published law by name, or one that `foundling plan fit` or `foundling scale` wrote.

    Raises:
        FoundlingError: it is neither.
    """
    if spec in LAWS:
        return LAWS[spec]
    if not Path(spec).is_file():
        raise FoundlingError(f"no law {spec!r}", f"published: {', '.join(LAWS)}; or a law.json", nearest(spec, LAWS))
    try:
        return Law(**{"source": spec, **json.loads(Path(spec).read_text(encoding="utf-8"))["law"]})
    except (ValueError, KeyError, TypeError):
        why = 'JSON with "law": {E, A, B, alpha, beta} was expected, as `foundling plan fit --out` writes'
        raise FoundlingError(f"{spec} is not a law", why) from None


def write_law(law: Law, path: Path) -> None:
    """Write a law so that `law_named` reads it back."""
    path.write_text(json.dumps({"law": asdict(law)}) + "\n", encoding="utf-8")


def beyond(law: Law, flops: float) -> list[str]:
    """A warning, with the loss's interval, if that is more than ten times what the law was fitted to."""
    if not law.largest or flops <= 10 * law.largest:
        return []
    low, high = law.interval(lambda one: one.optimum(flops).loss)
    known = f"the loss there lies in [{low:.3f}, {high:.3f}]" if low else "no joint interval is published for this law"
    times = flops / law.largest
    return [f"{flops:.3g} FLOP is {times:.0f} times the largest run behind this law, an extrapolation: {known}"]


def optimal(law: Law, flops: float) -> Answer:
    """The best size and tokens for a budget, beside the rule of 20 tokens a parameter."""
    best = law.optimum(flops)
    rule = math.sqrt(flops / (FLOPS_PER_PARAMETER * RULE_TOKENS_PER_PARAMETER))
    figures = [
        Figure("parameters", best.parameters, "count", *law.interval(lambda one: one.optimum(flops).parameters)),
        Figure("tokens", best.tokens, "tokens", *law.interval(lambda one: one.optimum(flops).tokens)),
        Figure("tokens a parameter", best.tokens / best.parameters, ""),
        Figure("loss", best.loss, "", *law.interval(lambda one: one.optimum(flops).loss)),
        Figure("by the rule of 20: parameters", rule, "count"),
        Figure("by the rule of 20: tokens", RULE_TOKENS_PER_PARAMETER * rule, "tokens"),
        Figure("loss by the rule", law.loss(rule, RULE_TOKENS_PER_PARAMETER * rule), ""),
    ]
    formulas = [f"L = {law.formula()}", "N = G (C/6)^(β/(α+β)), G = (αA / βB)^(1/(α+β)), D = C / 6N"]
    assumed = ["each text read once; a loss of this law's own tokenizer and data: compare within the law only"]
    return Answer(f"The best use of {flops:.3g} FLOP", figures, formulas, assumed, [law.source], beyond(law, flops))


def overtrained(law: Law, flops: float, served: float, inference_price: float = 1.0) -> Split:
    """The size that costs least over training and inference, at the loss that is optimal for `flops` of training.

    Minimises 6ND + price × 2N × served tokens with L(N, D) fixed (Sardana et al. 2024, arXiv:2401.00448, eq. 3).

    Args:
        served: tokens read and written over the model's life.
        inference_price: of a FLOP of inference over one of training (utilisation, hardware).
    """
    best = law.optimum(flops)
    tokens, price = not_negative("the served tokens", served), positive("the price of inference", inference_price)

    def total(log_n: float) -> float:
        n = math.exp(log_n)
        return 6 * n * law.tokens_for(best.loss, n) + price * 2 * n * tokens

    smallest = (law.A / (best.loss - law.E)) ** (1 / law.alpha)  # below it no amount of text reaches the loss
    log_n = _lowest(total, math.log(smallest) + 1e-9, math.log(best.parameters * 4))
    n = math.exp(log_n)
    return Split(n, law.tokens_for(best.loss, n), best.loss)


def overtraining(law: Law, flops: float, served: float, inference_price: float = 1.0) -> Answer:
    """How much smaller and longer trained the model should be, given what it will serve."""
    best, small = law.optimum(flops), overtrained(law, flops, served, inference_price)
    spent = {
        name: split.flops + inference_price * 2 * split.parameters * served
        for name, split in (("compute-optimal", best), ("over-trained", small))
    }
    figures = [
        Figure("parameters", small.parameters, "count"),
        Figure("tokens", small.tokens, "tokens"),
        Figure("tokens a parameter", small.tokens / small.parameters, ""),
        Figure("loss of both", small.loss, ""),
        Figure("parameters, if nothing were served", best.parameters, "count"),
        Figure("tokens, if nothing were served", best.tokens, "tokens"),
        Figure("training", small.flops, "FLOP"),
        Figure("training and inference", spent["over-trained"], "FLOP"),
        Figure("of the compute-optimal model", spent["compute-optimal"], "FLOP"),
        Figure("saved", 1 - spent["over-trained"] / spent["compute-optimal"], "share"),
    ]
    return Answer(
        f"A model that will serve {served:.3g} tokens",
        figures,
        ["minimise 6ND + price × 2N × served tokens, with L(N, D) = the optimum's loss", f"L = {law.formula()}"],
        [f"a FLOP of inference costs {inference_price:g} times one of training; 2N FLOP a served token"],
        [law.source, "Sardana et al. 2024, arXiv:2401.00448"],
        beyond(law, small.flops),
    )


def worth(times: float, decay: float) -> float:
    """What `times` of something are worth in fresh ones, when each repeat is worth less: 1 + R*(1 - exp(-R/R*))."""
    return times if times <= 1 else 1 + decay * (1 - math.exp(-(times - 1) / decay))


def repeated_loss(law: Law, parameters: float, unique: float, tokens: float) -> float:
    """L with repeated text: N' and D' in place of N and D (Muennighoff et al. 2023, eq. 5-7).

    Args:
        unique: different tokens that there are.
        tokens: tokens trained on, repeats counted.
    """
    fresh = unique * worth(tokens / unique, REPEAT_DECAY)
    useful = law.optimum_parameters(min(unique, tokens))
    return law.loss(useful * worth(parameters / useful, EXCESS_DECAY), fresh)


def repeats(law: Law, flops: float, unique: float) -> Answer:
    """The best size and number of passes when the text is limited."""
    budget, stock = positive("the number of FLOPs", flops), positive("the unique tokens", unique)

    def at(log_tokens: float) -> float:
        tokens = math.exp(log_tokens)
        return repeated_loss(law, budget / 6 / tokens, stock, tokens)

    free = law.optimum(budget)
    tokens = free.tokens
    if stock < free.tokens:
        tokens = math.exp(_lowest(at, math.log(stock * 0.2), math.log(max(stock * 1000, 1e3 * free.tokens))))
    parameters, passes = budget / 6 / tokens, tokens / stock
    fresh = stock * worth(passes, REPEAT_DECAY)
    figures = [
        Figure("parameters", parameters, "count"),
        Figure("tokens, repeats counted", tokens, "tokens"),
        Figure("passes over the text", passes, ""),
        Figure("worth in fresh tokens", fresh, "tokens"),
        Figure("worth of a repeated token", (fresh - stock) / (tokens - stock) if passes > 1 else 1.0, "share"),
        Figure("loss", repeated_loss(law, parameters, stock, tokens), ""),
        Figure("loss with as much text as wanted", free.loss, ""),
        Figure("tokens that would be wanted", free.tokens, "tokens"),
    ]
    formulas = ["D' = U + U R*(1 - exp(-R/R*)), R = passes - 1, R* = 15.39; N' likewise beyond N_opt(U), R* = 5.31"]
    assumed = ["up to 4 passes a repeated token is worth nearly a fresh one; beyond 40 it is worth next to nothing"]
    sources = [law.source, "Muennighoff et al. 2023, arXiv:2305.16264"]
    title = f"{budget:.3g} FLOP with {stock:.3g} different tokens"
    return Answer(title, figures, [*formulas, f"L = {law.formula()}"], assumed, sources, beyond(law, budget))


def _lowest(f: Callable[[float], float], low: float, high: float) -> float:
    """Where a function of one valley is lowest, by golden sections."""
    ratio = (math.sqrt(5) - 1) / 2
    a, b = high - ratio * (high - low), low + ratio * (high - low)
    fa, fb = f(a), f(b)
    for _ in range(200):
        if fa <= fb:
            high, b, fb = b, a, fa
            a = high - ratio * (high - low)
            fa = f(a)
        else:
            low, a, fa = a, b, fb
            b = low + ratio * (high - low)
            fb = f(b)
    return (low + high) / 2
