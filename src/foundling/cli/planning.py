"""`foundling plan`: a recipe's plan, and one command for each question of size, time, memory and money.

Every answer prints its formula and what it assumes; `--json` gives the same to machines. No weight is allocated.
"""

from __future__ import annotations

import json as json_module
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Group, Parameter

from foundling.cli.lives import Overrides, StorePath, run
from foundling.core.artifacts import Store
from foundling.core.errors import FoundlingError
from foundling.core.lives import artifact_of
from foundling.core.units import parse_count
from foundling.planning.answer import DAY_S, HOUR_S, Answer


def _number(_: Any, tokens: Sequence[Any]) -> float:
    return parse_count(tokens[0].value)


def _speed(_: Any, tokens: Sequence[Any]) -> float:
    """'60e12', '60T/s' or '5.2e18/day' -> FLOP/s."""
    number, _slash, per = str(tokens[0].value).partition("/")
    seconds = {"": 1.0, "s": 1.0, "hour": HOUR_S, "day": DAY_S}
    if per not in seconds:
        raise ValueError(f"{tokens[0].value} is no rate: write 60e12/s or 5.2e18/day")
    return parse_count(number) / seconds[per]


Count = Annotated[float, Parameter(converter=_number)]
OptionalCount = Annotated[float | None, Parameter(converter=_number, show_default=False)]
Speed = Annotated[float | None, Parameter(converter=_speed, help="FLOP/s of one device, e.g. 60e12 or 5.2e18/day")]
Hardware = Annotated[str, Parameter(help="a device (`foundling plan hardware`), or `this` machine")]
Precision = Annotated[str, Parameter(help="fp32 (no matrix units), tf32, bf16 or fp8")]
Price = Annotated[float | None, Parameter(help="paid for one device-hour, in any currency", show_default=False)]
Utilisation = Annotated[float | None, Parameter(help="share of the peak that is reached", show_default=False)]
LawSpec = Annotated[str, Parameter(help="besiroglu, hoffmann, muennighoff, or a law.json from `fit` or `scale`")]
Json = Annotated[bool, Parameter(help="one JSON document for machines", negative="")]

SIZES = Group("Sizes and time", sort_key=1)
MONEY = Group("Money", sort_key=2)
LAWS = Group("Scaling laws", sort_key=3)
app = App(
    name="plan",
    help="What a recipe would cost here (`foundling plan RECIPE`), and one command for each question.\n\n"
    "Numbers may be written 7B, 1.4T or 3.14e23; a MODEL is a preset, a size such as 7B, a directory or life/stage.",
)


@app.default
def plan(
    recipe: str = "quickstart",
    *,
    overrides: Overrides = None,
    replan: bool = False,
    store: StorePath = None,
    json: bool = False,
) -> None:
    """What a recipe would cost on this machine, without running it."""
    run(recipe, overrides=overrides, plan=True, replan=replan, store=store, json=json)


def show(answer: Answer, as_json: bool) -> None:
    """Print an answer: figures, table, formula, assumptions, sources, warnings."""
    if as_json:
        print(json_module.dumps(answer.as_dict()))
        return
    from rich.console import Console
    from rich.table import Table

    console = Console(file=sys.stdout, highlight=False, markup=False, width=None if sys.stdout.isatty() else 140)
    console.print(answer.title, style="bold")
    figures = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2))
    for figure in answer.figures:
        figures.add_row("  " + figure.name, str(figure))
    console.print(figures)
    if answer.table is not None:
        table = Table(box=None, pad_edge=False)
        for column in answer.table[0]:
            table.add_column(column)
        for row in answer.table[1]:
            table.add_row(*row)
        console.print(table)
    parts = {"formula": answer.formulas, "assumes": answer.assumptions, "source": answer.sources}
    for name, lines in (parts | {"warning": answer.warnings, "plot": answer.plots}).items():
        for line in lines:
            console.print(f"  {name}: {line}", style="bold" if name == "warning" else "dim", soft_wrap=True)


@app.command(group=SIZES)
def memory(model: str, *, bits: float = 16, sparsity: float = 0.0, store: StorePath = None, json: Json = False) -> None:
    """Memory of a model's weights at a precision, dense or sparse.

    Args:
        model: a preset, a size such as 7B, a directory or life/stage.
        bits: of one weight.
        sparsity: share of the weights that are zero.
    """
    from foundling.planning import memory as bytes_of

    show(bytes_of.weights(_subject(model, store), bits, sparsity), json)


@app.command(group=SIZES)
def cache(
    model: str,
    *,
    context: Count = 4096,
    batch: Count = 1,
    bits: float = 16,
    store: StorePath = None,
    json: Json = False,
) -> None:
    """Memory of the key-value cache (and of any recurrent state).

    Args:
        context: tokens in a sequence.
        batch: sequences together.
        bits: of one cached number.
    """
    from foundling.planning import memory as bytes_of

    show(bytes_of.cache(_subject(model, store), context, batch, bits), json)


@app.command(group=SIZES)
def experts(model: str, *, context: Count = 4096, store: StorePath = None, json: Json = False) -> None:
    """A mixture of experts: total parameters (memory) against active ones (time)."""
    from foundling.planning import memory as bytes_of

    show(bytes_of.experts(_subject(model, store), int(context)), json)


@app.command(group=SIZES)
def compute(
    flops: OptionalCount = None,
    *,
    model: str | None = None,
    tokens: OptionalCount = None,
    context: Count = 2048,
    hardware: Hardware = "h100",
    devices: Count = 1,
    precision: Precision = "bf16",
    rate: Speed = None,
    utilisation: Utilisation = None,
    price: Price = None,
    store: StorePath = None,
    json: Json = False,
) -> None:
    """Days, money and energy of an amount of FLOPs, or of training a model on some tokens.

    Args:
        flops: the amount of work; or give --model and --tokens.
        context: tokens in a row, which attention's FLOPs depend on.
        devices: how many.
    """
    from foundling.planning import compute as work

    home = Store(store)
    if flops is None:
        if model is None or tokens is None:
            raise FoundlingError(
                "there is nothing to compute", "an amount of FLOPs, or --model and --tokens, was expected"
            )
        flops = work.training_flops(_subject(model, store), tokens, int(context))
    where = work.devices(hardware, devices, home, precision=precision, rate=rate, price=price)
    other = rate is not None or where.precision == "fp32"
    beside = work.devices(hardware, devices, home, price=price) if other and hardware != work.THIS else None
    show(work.compute(flops, where, utilisation, beside if beside and beside.rate != where.rate else None), json)


@app.command(group=SIZES)
def units(
    flops: Count,
    *,
    hardware: Hardware = "h100",
    precision: Precision = "bf16",
    rate: Speed = None,
    store: StorePath = None,
    json: Json = False,
) -> None:
    """FLOP, FLOP/s and FLOP/s-days: one amount of work in every unit."""
    from foundling.planning import compute as work

    show(work.units(flops, work.devices(hardware, 1, Store(store), precision=precision, rate=rate)), json)


@app.command(group=SIZES)
def train(
    model: str,
    *,
    tokens: Count,
    batch: Count = 16,
    micro_batch: Count = 0,
    context: Count = 256,
    hardware: Hardware = "this",
    devices: Count = 1,
    precision: Precision = "bf16",
    optimizer: Annotated[str, Parameter(help="muon, adamw or sgd")] = "muon",
    recompute: Annotated[
        bool, Parameter(help="keep only the blocks' inputs for the backward pass", negative="")
    ] = False,
    utilisation: Utilisation = None,
    price: Price = None,
    store: StorePath = None,
    json: Json = False,
) -> None:
    """A training run before it is run: time, FLOPs, memory by part, energy, cost; refused if it cannot fit.

    Args:
        tokens: to train on.
        batch: rows in one step, over all devices.
        micro_batch: rows in one forward pass of a device; 0: the device's whole share.
        context: tokens in a row.
        devices: how many; they share the weights (FSDP).
    """
    from foundling.planning.training_run import plan_training

    where = (hardware, devices, precision, price)
    rows = (batch, micro_batch, context)
    show(
        plan_training(_subject(model, store), tokens, rows, where, optimizer, recompute, utilisation, Store(store)),
        json,
    )


@app.command(group=SIZES)
def hardware(*, store: StorePath = None, json: Json = False) -> None:
    """The peak tables with their sources, and what was measured here beside them."""
    from foundling.planning.compute import peaks

    show(peaks(Store(store)), json)


@app.command(group=SIZES)
def actual(life: str | None = None, *, store: StorePath = None, json: Json = False) -> None:
    """Plan against actual, for every stage of a life that was run (default: the newest)."""
    from foundling.planning.actual import actual as beside

    show(beside(Store(store), life), json)


@app.command(group=MONEY)
def labels(
    *,
    examples: Count = 0,
    price: float = 10.0,
    comparisons: Count = 0,
    comparison_price: float = 3.5,
    minutes: float = 0.0,
    json: Json = False,
) -> None:
    """What human answers and comparisons cost.

    Args:
        examples: answers written by people.
        price: of one of them.
        comparisons: pairs compared by people.
        comparison_price: of one of them.
        minutes: of work on one written answer, for the hours.
    """
    from foundling.planning import people

    show(people.labels(examples, price, comparisons, comparison_price, minutes), json)


@app.command(group=MONEY)
def tokens(
    *files: Path,
    tokenizer: str,
    price: float,
    characters: Count = 1e6,
    store: StorePath = None,
    json: Json = False,
) -> None:
    """What the same text costs in each language: one file of parallel text for each; the first is the reference.

    Args:
        files: text files, the same content line by line; a file's name is its language.
        tokenizer: a tokenizer's or model's directory, life/stage or key.
        price: of a million tokens.
        characters: of the reference language to be paid for.
    """
    from foundling.planning.people import languages
    from foundling.tokenization.fairness import fairness
    from foundling.tokenization.tokenizer import Tokenizer

    missing = [str(path) for path in files if not path.is_file()]
    if len(files) < 2 or missing:
        what = f"there is no file {missing[0]}" if missing else f"{len(files)} files are too few to compare"
        raise FoundlingError(what, "two or more text files, one a language, were expected")
    found = artifact_of(Store(store), tokenizer, "tokenizer")
    parallel = {path.stem: path.read_text(encoding="utf-8").splitlines() for path in files}
    reference = files[0].stem
    costs = fairness({"": Tokenizer.load(found.path if found else tokenizer)}, parallel, reference)
    rows = [(cost.language, cost.premium, cost.characters_per_token) for cost in costs]
    show(languages(rows, price, characters, reference), json)


@app.command(group=MONEY)
def last_mile(
    *points: Annotated[str, Parameter(help="EFFORT=SCORE, four or more: 1000=0.72 2000=0.78 ...")],
    targets: Annotated[list[float], Parameter(consume_multiple=True, negative="")] = [0.85, 0.90, 0.95],  # noqa: B006
    json: Json = False,
) -> None:
    """What 90 → 95% costs against 85 → 90%, on an error curve fitted to what was measured.

    Args:
        targets: scores between 0 and 1, rising.
    """
    from foundling.planning.people import last_mile as mile

    show(mile(dict(_pair(point) for point in points), targets), json)


@app.command(group=MONEY)
def serving(
    model: str | None = None,
    *,
    tokens_per_s: OptionalCount = None,
    price: float,
    load: float = 1.0,
    training_cost: Count = 0,
    tokens: Count = 1e12,
    hardware: Hardware = "h100",
    devices: Count = 1,
    batch: Count = 32,
    context: Count = 2048,
    store: StorePath = None,
    json: Json = False,
) -> None:
    """Cost of a million served tokens, from a measured throughput or from a device's limits at 16, 8 and 4 bits.

    Args:
        model: estimate for this model, in place of --tokens-per-s.
        tokens_per_s: a measured throughput of the whole server.
        price: of the machine (of one device, with a model) per hour.
        load: share of the time in which it is busy.
        training_cost: spread over --tokens, with a measured throughput.
        tokens: that will be served over the model's life.
        batch: sequences decoded together.
        context: tokens of each.
    """
    from foundling.planning import serving_cost
    from foundling.planning.compute import devices as of

    if (model is None) == (tokens_per_s is None):
        raise FoundlingError("give a MODEL or --tokens-per-s", "one of them was expected, to know the throughput")
    if tokens_per_s is not None:
        show(serving_cost.measured(tokens_per_s, price, load, training_cost, tokens), json)
        return
    where = of(hardware, devices, Store(store), price=price)
    show(serving_cost.estimated(_subject(str(model), store), where, batch, context, load), json)


@app.command(group=MONEY)
def buy(
    *,
    tokens: Count,
    api_price: float,
    tune: str | None = None,
    build: str | None = None,
    months: float = 12,
    plot: Path | None = None,
    json: Json = False,
) -> None:
    """Build, fine-tune or buy: what each costs at a volume, where they break even, and what moves that.

    Args:
        tokens: a month.
        api_price: of a million tokens, bought.
        tune: FIXED,MONTHLY,PER_MILLION of fine-tuning an open model and serving it, e.g. 5000,1500,0.4.
        build: FIXED,MONTHLY,PER_MILLION of training one and serving it.
        months: over which it is compared.
        plot: a PNG to write.
    """
    from foundling.planning.economics import Way, compare

    own = {"fine-tune": tune, "build": build}
    ways = [Way("buy", 0, 0, api_price)]
    ways += [Way(name, *_three(name, text)) for name, text in own.items() if text is not None]
    show(compare(ways, tokens, months, plot), json)


@app.command(group=LAWS)
def fit(
    file: Path,
    *,
    loss_column: str | None = None,
    budget: Annotated[list[str] | None, Parameter(consume_multiple=True, negative="")] = None,
    predict: Annotated[list[str] | None, Parameter(consume_multiple=True, negative="")] = None,
    drop_highest: int = 0,
    bootstraps: int = 200,
    seed: int = 0,
    out: Path | None = None,
    plot: Path | None = None,
    json: Json = False,
) -> None:
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
    runs = runs.where(runs.loss.argsort()[: max(0, len(runs) - drop_highest)])
    fitted = fit_law(runs, bootstraps=bootstraps, seed=seed, source=str(file))
    targets = [_two(text) for text in predict or ()]
    answer = describe(fitted, [_count(text) for text in budget or ()], targets)
    if out is not None:
        write_law(fitted.law, out)
    if plot is not None:
        from foundling.planning.scaling_plots import draw_fit

        answer.plots.append(str(draw_fit(fitted, targets, plot)))
    show(answer, json)


@app.command(group=LAWS)
def optimal(flops: Count, *, law: LawSpec = "besiroglu", json: Json = False) -> None:
    """The best size and tokens for a training budget, beside 20 tokens a parameter."""
    from foundling.planning import scaling_law

    show(scaling_law.optimal(scaling_law.law_named(law), flops), json)


@app.command(group=LAWS)
def overtrain(
    flops: Count, *, served: Count, inference_price: float = 1.0, law: LawSpec = "besiroglu", json: Json = False
) -> None:
    """The size that is cheapest over training and serving, at the loss a budget would buy.

    Args:
        flops: the compute-optimal training budget whose loss is wanted.
        served: tokens over the model's life.
        inference_price: of a FLOP of inference over one of training.
    """
    from foundling.planning import scaling_law

    show(scaling_law.overtraining(scaling_law.law_named(law), flops, served, inference_price), json)


@app.command(group=LAWS)
def repeat(flops: Count, *, unique: Count, law: LawSpec = "muennighoff", json: Json = False) -> None:
    """The best size and number of passes when there are only so many different tokens."""
    from foundling.planning import scaling_law

    show(scaling_law.repeats(scaling_law.law_named(law), flops, unique), json)


@app.command(group=LAWS)
def ceilings(
    flops: Count = 3.8e25,
    *,
    multiple: float = 50,
    tokens: Count = 15e12,
    year: float = 2024.3,
    growth: float = 2.4,
    hardware: Hardware = "h100",
    megawatts: float = 100,
    law: LawSpec = "besiroglu",
    store: StorePath = None,
    json: Json = False,
) -> None:
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
    show(limits(law_named(law), flops, multiple, tokens, year, growth, where, megawatts), json)


def _subject(spec: str, store: str | None) -> Any:
    from foundling.planning.subject import subject

    return subject(spec, Store(store))


def _count(text: str) -> float:
    try:
        return parse_count(text)
    except ValueError:
        raise FoundlingError(f"{text!r} is not a number", "write 7B, 1.4T or 3.14e23") from None


def _pair(text: str) -> tuple[float, float]:
    effort, equals, score = text.partition("=")
    if not equals:
        raise FoundlingError(f"{text!r} is not EFFORT=SCORE", "e.g. 1000=0.72")
    return _count(effort), _count(score)


def _two(text: str) -> tuple[float, float]:
    parts = [_count(part) for part in text.split(",")]
    if len(parts) != 2 or min(parts) <= 0:
        raise FoundlingError(f"{text!r} is not PARAMETERS,TOKENS", "e.g. 7B,1.4T")
    return parts[0], parts[1]


def _three(name: str, text: str) -> tuple[float, float, float]:
    parts = [_count(part) for part in text.split(",")]
    if len(parts) != 3:
        raise FoundlingError(
            f"--{name} {text!r} has {len(parts)} numbers", "FIXED,MONTHLY,PER_MILLION, e.g. 5000,1500,0.4"
        )
    return parts[0], parts[1], parts[2]
