"""`foundling plan`: scaling laws, fitted and used."""

from __future__ import annotations

from pathlib import Path

from foundling.cli.lives import StorePath
from foundling.cli.planning_answers import Count, Hardware, LawSpec, Many, numbers
from foundling.core.artifacts import Store
from foundling.planning.answer import Answer, not_negative


def fit(
    file: Path,
    *,
    loss_column: str | None = None,
    budget: Many = None,
    predict: Many = None,
    drop_highest: int = 0,
    bootstraps: int = 200,
    seed: int = 0,
    out: Path | None = None,
    plot: Path | None = None,
) -> Answer:
    """Fit Chinchilla's law to finished runs, with intervals, and extrapolate.

    Args:
        file: CSV or JSONL with parameters, tokens (or flops) and loss.
        loss_column: another name of the loss.
        budget: FLOPs whose best size is wanted.
        drop_highest: leave out that many runs of the highest loss (Besiroglu et al. 2024 leave out five).
        predict: PARAMETERS,TOKENS of runs whose loss is wanted, e.g. 7B,1.4T.
        out: a law.json to write, for `--law`.
        plot: a PNG to write.
    """
    from foundling.planning.runs import read_runs
    from foundling.planning.scaling_fit import describe, fit_law
    from foundling.planning.scaling_law import write_law

    runs = read_runs(file, loss_column)
    kept = max(0, len(runs) - int(not_negative("drop_highest", drop_highest)))
    runs = runs.where(runs.loss.argsort()[:kept])
    fitted = fit_law(runs, bootstraps=bootstraps, seed=seed, source=str(file))
    budgets = [numbers(text, "FLOPS", "1e24")[0] for text in budget or ()]
    targets = [(n, d) for n, d in (numbers(text, "PARAMETERS,TOKENS", "7B,1.4T") for text in predict or ())]
    answer = describe(fitted, budgets, targets)
    if out is not None:
        write_law(fitted.law, out)
    if plot is not None:
        from foundling.planning.scaling_plots import draw_fit

        answer.plots.append(str(draw_fit(fitted, targets, plot)))
    return answer


def optimal(flops: Count, *, law: LawSpec = "besiroglu") -> Answer:
    """The best size and tokens for a training budget, beside 20 tokens a parameter."""
    from foundling.planning import scaling_law

    return scaling_law.optimal(scaling_law.law_named(law), flops)


def overtrain(flops: Count, *, served: Count, inference_price: float = 1.0, law: LawSpec = "besiroglu") -> Answer:
    """The size that is cheapest over training and serving, at the loss a budget would buy.

    Args:
        flops: the compute-optimal training budget whose loss is wanted.
        served: tokens over the model's life.
        inference_price: of a FLOP of inference over one of training.
    """
    from foundling.planning import scaling_law

    return scaling_law.overtraining(scaling_law.law_named(law), flops, served, inference_price)


def repeat(flops: Count, *, unique: Count, law: LawSpec = "muennighoff") -> Answer:
    """The best size and number of passes when there are only so many different tokens."""
    from foundling.planning import scaling_law

    return scaling_law.repeats(scaling_law.law_named(law), flops, unique)


def ceilings(
    flops: Count = 3.8e25,
    *,
    multiple: float = 50,
    tokens: Count = 15e12,
    year: float = 2024.3,
    growth: float = 3.0,
    hardware: Hardware = "h100",
    megawatts: float = 100,
    law: LawSpec = "besiroglu",
    store: StorePath = None,
) -> Answer:
    """When the text runs out, what a site's power feeds, and what 50 times the compute would mean.

    Args:
        flops: a budget of today (Llama 3.1 405B: 3.8e25).
        multiple: of it.
        tokens: of a large training set in --year.
        growth: of training sets, a year.
    """
    from foundling.planning.ceilings import ceilings as limits
    from foundling.planning.compute import devices as of
    from foundling.planning.scaling_law import law_named

    where = of(hardware, 1, Store(store))
    return limits(law_named(law), flops, multiple, tokens, year, growth, where, megawatts)
