"""`foundling scale`: a ladder of small models through the pipeline, then laws fitted to what they reached."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from cyclopts import Parameter

from foundling.cli.lives import StorePath, print_plan
from foundling.core import hardware, progress
from foundling.core.artifacts import Artifact, Store
from foundling.core.errors import FoundlingError, nearest
from foundling.core.stages import Node
from foundling.core.units import human_count, parse_count
from foundling.models.presets import names, preset
from foundling.pipeline import announce, open_life, resolve, run_life
from foundling.planning.answer import whole
from foundling.planning.estimate import plan_life
from foundling.planning.scaling_law import FLOPS_PER_PARAMETER
from foundling.recipes.recipe import Recipe, check_recipe

SIZES = ("foundling-100k", "foundling-147k", "foundling-220k", "foundling-400k", "foundling-1m")
TOKENS = ("2.8M", "4.2M", "5.6M")  # on less, small models have not yet learnt to copy from their context
Many = Parameter(consume_multiple=True, negative="")


def scale(
    *,
    data: Annotated[list[str] | None, Many] = None,
    sizes: Annotated[list[str] | None, Many] = None,
    tokens: Annotated[list[str] | None, Many] = None,
    budgets: Annotated[list[str] | None, Many] = None,
    held_out: str | None = "foundling-4m",
    vocab_size: int = 512,
    context: int = 256,
    batch_size: int = 8,
    max_bytes: float = 20e6,
    seed: int = 0,
    name: str = "scale",
    store: StorePath = None,
    json: bool = False,
) -> None:
    """Train a ladder of small models, fit scaling laws to it, extrapolate, and check on a larger model.

    Every model is an artifact: a second ladder trains only what the first did not.

    Args:
        data: text to train on (default: the text that is installed with Python).
        sizes: presets of the ladder, five or more (default: foundling-100k to foundling-1m).
        tokens: every size is trained on each of these amounts (default: 2.8M 4.2M 5.6M).
        budgets: FLOPs, in place of --tokens: every size is trained at each, on C / 6N tokens.
        held_out: a larger preset that is predicted, then trained on the most tokens; "" for none.
        vocab_size: of the ladder's tokenizer.
        context: tokens in a row.
        batch_size: rows in a step.
        max_bytes: of the corpus.
        name: the life's name.
    """
    home = Store(store)
    progress.set_quiet(json)
    shape = {"context": context, "batch_size": batch_size, "vocab_size": vocab_size}
    lengths = {"tokens": tokens, "budgets": budgets}
    recipe = ladder(data, sizes or SIZES, lengths, held_out or None, shape, max_bytes, seed, name)
    the_plan = plan_life(recipe.name, resolve(recipe, home), home, hardware.remembered(home.root / "machine.json"))
    if not json:
        print_plan(the_plan)
    the_plan.refuse_if_too_large()
    made: list[Artifact] = []

    def done(node: Node, artifact: Artifact, reused: bool) -> None:
        made.append(artifact)
        announce(node, artifact, reused)

    run_life(recipe, home, open_life(recipe, home), done)
    report = made[-1].path
    if json:
        print((report / "results.json").read_text(encoding="utf-8"))
    else:
        print((report / "report.md").read_text(encoding="utf-8"))
        print(
            f"{report / 'scaling.png'}\n{report / 'law.json'}: foundling plan optimal FLOPS --law {report / 'law.json'}"
        )


def ladder(
    data: list[str] | None,
    sizes: Sequence[str],
    lengths: Mapping[str, Sequence[str] | None],
    held_out: str | None,
    shape: dict[str, int],
    max_bytes: float,
    seed: int,
    name: str,
) -> Recipe:
    """The recipe of a ladder: one corpus, one model for each size and amount of text, and the fit.

    Args:
        lengths: how long each size is trained: amounts of tokens or of budgets; neither: TOKENS.

    Raises:
        FoundlingError: unknown or too few sizes, two kinds of lengths, or amounts that are no numbers.
    """
    unknown = next((size for size in [*sizes, *([held_out] if held_out else [])] if size not in names()), None)
    if unknown is not None:
        raise FoundlingError(f"no preset named {unknown!r}", "see `foundling models`", nearest(unknown, names()))
    if len(set(sizes)) < 5:
        raise FoundlingError(f"a ladder of {len(set(sizes))} sizes is too short", "five or more were expected")
    given = {kind: amounts for kind, amounts in lengths.items() if amounts} or {"tokens": TOKENS}
    if len(given) > 1:
        both = " and ".join(f"--{kind}" for kind in given)
        raise FoundlingError(f"{both} are given", "one of them says how long each size is trained")
    ((kind, texts),) = given.items()
    amounts = [_amount(text) for text in texts]
    per_step = shape["context"] * shape["batch_size"]
    source: dict[str, Any] = (
        {"data": data} if data else {"data": ["installed-python"], "validation_source": "standard-library"}
    )
    stages: dict[str, Any] = {
        "corpus": {"stage": "corpus", **source, "max_bytes": round(max_bytes)},
        "tokenizer": {"stage": "tokenizer", "inputs": {"corpus": "corpus"}, "vocab_size": shape["vocab_size"]},
        "tokens": {"stage": "tokenize", "inputs": {"corpus": "corpus", "tokenizer": "tokenizer"}},
    }
    runs: dict[str, tuple[str, float]] = {}
    for size in sizes:
        for amount in amounts:
            n = preset(size, vocab_size=shape["vocab_size"]).n_parameters()
            count = amount / (FLOPS_PER_PARAMETER * n) if kind == "budgets" else amount
            runs[f"{size}-{human_count(count)}"] = (size, count)
    checked = f"{held_out}-held-out"
    if held_out:
        runs[checked] = (held_out, max(count for _, count in runs.values()))
    for run, (size, count) in runs.items():
        own: dict[str, Any] = {
            "context": shape["context"],
            "batch_size": shape["batch_size"],
            "validation_tokens": 60_000,
        }
        own |= {"preset": size, "steps": whole("steps", max(1, round(count / per_step))), "prompts": []}
        stages[run] = {"stage": "pretrain", "inputs": {"tokens": "tokens"}, **own}
    held = [checked] if held_out else []
    stages["scale"] = {"stage": "scale", "inputs": {run: run for run in runs}, "held_out": held, "seed": seed}
    return check_recipe({"name": name, "seed": seed, "stages": stages}, name)


def _amount(text: str) -> float:
    try:
        value = parse_count(text)
    except ValueError:
        value = 0.0
    if value <= 0:
        raise FoundlingError(f"{text!r} is not an amount", "a number above zero was expected: 500K, 2M, 1e12")
    return value
