"""`foundling plan`: questions of money."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from foundling.cli.lives import StorePath
from foundling.cli.planning_answers import Count, Hardware, OptionalCount, model_named, numbers
from foundling.core.artifacts import Store
from foundling.core.errors import FoundlingError
from foundling.core.lives import artifact_of
from foundling.planning.answer import Answer

COSTS = "FIXED,MONTHLY,PER_MILLION"


def labels(
    *,
    examples: Count = 0,
    price: OptionalCount = None,
    comparisons: Count = 0,
    comparison_price: OptionalCount = None,
    minutes: float = 0.0,
) -> Answer:
    """What human answers and comparisons cost.

    Args:
        examples: answers written by people.
        price: of one of them; left out, the textbook's.
        comparisons: pairs compared by people.
        comparison_price: of one of them; left out, the textbook's.
        minutes: of work on one written answer, for the hours.
    """
    from foundling.planning import people

    return people.labels(examples, price, comparisons, comparison_price, minutes)


def tokens(
    *files: Path,
    tokenizer: str,
    price: float,
    characters: Count = 1e6,
    store: StorePath = None,
) -> Answer:
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
    return languages(rows, price, characters, reference)


def last_mile(
    *points: Annotated[str, Parameter(help="EFFORT=SCORE, four or more: 1000=0.72 2000=0.78 ...")],
    targets: Annotated[list[float], Parameter(consume_multiple=True, negative="")] = [0.85, 0.90, 0.95],  # noqa: B006
) -> Answer:
    """What 90 → 95% costs against 85 → 90%, on an error curve fitted to what was measured.

    Args:
        targets: scores between 0 and 1, rising.
    """
    from foundling.planning.people import last_mile as mile

    pairs = (numbers(point, "EFFORT=SCORE", "1000=0.72", "=") for point in points)
    measured = {effort: score for effort, score in pairs}  # noqa: C416 (a list of two, not a pair)
    return mile(measured, targets)


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
) -> Answer:
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
        return serving_cost.measured(tokens_per_s, price, load, training_cost, tokens)
    where = of(hardware, devices, Store(store), price=price)
    return serving_cost.estimated(model_named(str(model), store), where, batch, context, load)


def buy(
    *,
    tokens: Count,
    api_price: float,
    tune: str | None = None,
    build: str | None = None,
    months: float = 12,
    plot: Path | None = None,
) -> Answer:
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
    ways += [Way(name, *numbers(text, COSTS, "5000,1500,0.4")) for name, text in own.items() if text is not None]
    return compare(ways, tokens, months, plot)
