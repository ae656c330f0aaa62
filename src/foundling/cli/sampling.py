"""Verbs about sampling: what each step does to the distribution, and the best of several answers."""

from __future__ import annotations

import json as json_module
import shlex
import subprocess
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter
from rich.console import Console
from rich.table import Table

from foundling.cli.use import Spec, SpecOrUrl, StorePath
from foundling.core.artifacts import Store
from foundling.core.errors import FoundlingError

Choice = Literal["logprob", "vote", "shortest", "verifier"]
VERIFIER_TIMEOUT_S = 10.0


def sample_explain(
    prompt: str,
    *,
    model: Spec = None,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    show: int = 8,
    store: StorePath = None,
    json: bool = False,
) -> None:
    """The distribution over the next token before and after each step of sampling.

    Args:
        prompt: the text whose next token is explained.
        show: tokens to show, the likeliest of the model's own distribution first.
    """
    from foundling.inference.explain import explain
    from foundling.inference.model import load
    from foundling.inference.parameters import SamplingParams
    from foundling.models.language_model import require_left_to_right

    loaded = load(model, store=Store(store))
    require_left_to_right(loaded.module.config)
    params = SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    request = loaded.request(prompt)
    source = [list(request.encoder_ids)] if request.encoder_ids else None
    logits = loaded.logits([list(request.prompt_ids)], source)[0, -1]
    steps = explain(logits, params, prompt=list(request.prompt_ids))
    likeliest = steps[0].probabilities.argsort(descending=True)[:show].tolist()
    texts = [loaded.tokenizer.decode([token], skip_special=False) for token in likeliest]
    # parts of a character all read as the same text: such tokens are told apart by their numbers
    names = [text if texts.count(text) == 1 else f"{text} #{n}" for text, n in zip(texts, likeliest, strict=True)]
    rows = [(step.name, step.kept, [float(step.probabilities[token]) for token in likeliest]) for step in steps]
    if json:
        print(json_module.dumps([{"step": n, "kept": k, "probabilities": dict(zip(names, p))} for n, k, p in rows]))
        return
    table = Table(box=None, pad_edge=False)
    for column in ("step", "kept", *(repr(name) for name in names)):
        table.add_column(column, justify="left" if column == "step" else "right")
    for name, kept, probabilities in rows:
        table.add_row(name, str(kept), *(f"{p:.3f}" if p else "-" for p in probabilities))
    Console().print(table)


def best_of(
    prompt: str,
    *,
    model: SpecOrUrl = None,
    n: int = 8,
    choose: Choice = "logprob",
    verifier: Annotated[
        str | None, Parameter(help="a command that reads an answer and exits with 0 if it is valid")
    ] = None,
    chat: bool = False,
    max_tokens: int = 128,
    temperature: float = 0.8,
    seed: int | None = None,
    store: StorePath = None,
    json: bool = False,
) -> None:
    """Draw several answers and choose one.

    Args:
        prompt: the text to continue, or the message to answer with --chat.
        n: answers to draw; they share the prompt's cache.
        choose: logprob (the model's own favourite), vote (what most say), shortest or verifier (needs --verifier).
        chat: render the prompt as a user's message.
    """
    from foundling.inference import search
    from foundling.inference.model import load_or_connect

    if choose == "verifier" and verifier is None:
        raise FoundlingError("--choose verifier needs a --verifier", fix='e.g. --verifier "python check.py"')
    if verifier is not None:
        choose = "verifier"
    chosen_by: dict[str, Callable[..., int]] = {
        "logprob": search.choose_by_mean_logprob,
        "vote": search.choose_by_vote(str.strip),
        "shortest": search.choose_shortest_valid(lambda text: bool(text.strip())),
        "verifier": search.choose_shortest_valid(lambda text: _verified(verifier or "", text)),
    }
    loaded = load_or_connect(model, store=Store(store))
    asked: Any = [{"role": "user", "content": prompt}] if chat else prompt
    sampling: dict[str, Any] = {"max_tokens": max_tokens, "temperature": temperature, "seed": seed}
    if choose == "logprob":
        sampling["logprobs"] = 0  # a URL gives none unasked
    best = search.best_of(loaded.engine, loaded.request(asked, **sampling), n, chosen_by[choose])
    if json:
        print(json_module.dumps({"text": best.chosen.text, "samples": [sample.text for sample in best.samples]}))
        return
    print(best.chosen.text)


def structured(
    schema: Path,
    prompts: Path,
    *,
    model: SpecOrUrl = None,
    tuned: Annotated[str | None, Parameter(help="a model fine-tuned for this form, to compare with")] = None,
    judge: Annotated[str | None, Parameter(help="a model (or URL) that says whether valid answers are right")] = None,
    format: Literal["json", "yaml"] = "json",
    max_tokens: int = 256,
    temperature: float = 0.7,
    attempts: int = 5,
    seed: int = 0,
    store: StorePath = None,
    json: bool = False,
) -> None:
    """Compare the ways to get answers in a form: prompt, repair, resample, constrain, fine-tune.

    Args:
        schema: a file with a JSON Schema.
        prompts: a file with one prompt per line.
        attempts: most answers drawn for a prompt when resampling.
    """
    from foundling.inference.model import load_or_connect
    from foundling.studies.structured import Study

    try:
        form = json_module.loads(schema.read_text(encoding="utf-8"))
        lines = [line for line in prompts.read_text(encoding="utf-8").split("\n") if line.strip()]
    except (OSError, ValueError) as error:
        raise FoundlingError("the schema or the prompts cannot be read", str(error)) from None
    if not isinstance(form, dict):
        raise FoundlingError(f"{schema} is not a JSON Schema", "expected an object")
    study = Study(form, lines, format, max_tokens, temperature, attempts, seed)
    study.grammar()  # a schema that cannot be used is told before models are loaded
    home = Store(store)
    others = (load_or_connect(spec, home) if spec is not None else None for spec in (tuned, judge))
    ways = study.compare(load_or_connect(model, home), *others)
    if json:
        print(json_module.dumps([asdict(way) for way in ways]))
        return
    table = Table(box=None, pad_edge=False)
    for column in ("", "valid", "95%", "right", "repaired", "tokens", "seconds", "what went wrong"):
        table.add_column(column, justify="left" if column in ("", "what went wrong") else "right")
    for way in ways:
        worst = sorted(way.failures.items(), key=lambda item: -item[1])[:3]
        interval = f"{way.valid.low:.2f}-{way.valid.high:.2f}"
        right = "" if way.right is None else f"{way.right.value:.2f}"
        figures = (f"{way.tokens:.0f}", f"{way.seconds:.2f}", "; ".join(f"{why} ({n})" for why, n in worst))
        table.add_row(way.name, f"{way.valid.value:.2f}", interval, right, str(way.repaired), *figures)
    Console().print(table)


def _verified(command: str, answer: str) -> bool:
    """Whether the command accepts the answer on its standard input. A command that hangs has not accepted it."""
    try:
        done = subprocess.run(
            shlex.split(command), input=answer, text=True, capture_output=True, timeout=VERIFIER_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return False
    except OSError as error:
        raise FoundlingError(f"the verifier {command!r} cannot be started", str(error)) from None
    return done.returncode == 0
