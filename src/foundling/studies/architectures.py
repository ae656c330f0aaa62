"""What each design buys: every one trained on the same data, at equal size, with the same tuning, over several seeds.

For each design: the width at which parameters (or FLOPs) are equal; the better of the same few learning rates, found
on the first seed; then `seeds` trainings. Reported with intervals over the seeds (Student's t): validation bits per
byte; and, measured once each: training tokens/s, decoding tokens/s and the state's bytes against the context length.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from scipy import stats

from foundling.core import progress
from foundling.core.artifacts import Artifact, Draft
from foundling.core.hardware import device
from foundling.core.stages import Inputs
from foundling.core.units import human_bytes, human_count
from foundling.models.build import build
from foundling.models.config import ModelConfig
from foundling.models.cost import state_bytes
from foundling.studies.architectures_designs import matched
from foundling.studies.architectures_plots import plot
from foundling.studies.architectures_speed import STATE_VALUE_BYTES, decoding, training
from foundling.studies.config import CompareArchitecturesConfig
from foundling.training.bits_per_byte import HeldOut
from foundling.training.config import TrainingConfig
from foundling.training.objectives.causal import Causal
from foundling.training.token_files import TokenSplit
from foundling.training.trainer import Trainer

RESULTS = "results.json"


def compare_architectures(config: CompareArchitecturesConfig, inputs: Inputs, draft: Draft) -> None:
    """Train and measure every design; write results.json, report.md and the plots.

    Args:
        inputs: `tokens`, a tokens artifact.

    Raises:
        FoundlingError: an unknown design, or a size that a design cannot have.
    """
    tokens = inputs["tokens"]
    train = TokenSplit(tokens.path, "train")
    shapes = {
        name: matched(name, config.equal, config.parameters, config.layers, train.vocab_size, config.context)
        for name in config.architectures
    }
    results = []
    with progress.task("compare architectures", len(shapes), "designs") as bar:
        for name, shape in shapes.items():
            results.append(_measure(name, shape, config, tokens, draft.scratch))
            bar.advance(1, bits_per_byte=results[-1]["bits_per_byte"]["mean"])
    results.sort(key=lambda result: result["bits_per_byte"]["mean"])
    report = {"config": config.model_dump(mode="json"), "tokens": tokens.key, "designs": results}
    (draft.path / RESULTS).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    (draft.path / "report.md").write_text(table(results, config), encoding="utf-8")
    plot(results, draft.path)
    draft.metrics |= {result["name"]: result["bits_per_byte"]["mean"] for result in results}


def _measure(
    name: str, shape: ModelConfig, config: CompareArchitecturesConfig, tokens: Artifact, scratch: Path
) -> dict[str, Any]:
    """One design: the tuning, the trainings, the speeds. What is done is kept in `scratch` and not done again."""
    folder = scratch / "".join(letter if letter.isalnum() else "-" for letter in name)
    tries = {
        rate: _train(shape, config, tokens, folder / f"tune-{rate}", config.seed, rate, config.tuning_steps)
        for rate in (config.learning_rates if len(config.learning_rates) > 1 else ())
    }
    rate = min(tries, key=lambda r: tries[r]["bits_per_byte"]) if tries else config.learning_rates[0]
    runs = [
        _train(shape, config, tokens, folder / f"seed-{seed}", seed, rate, config.steps)
        for seed in range(config.seed, config.seed + config.seeds)
    ]
    module = build(shape, config.seed).to(device())
    return {
        "name": name,
        "dim": shape.dim,
        "parameters": shape.n_parameters(embeddings=False),
        "active_parameters": shape.n_parameters(active=True, embeddings=False),
        "training_flops_per_token": shape.flops_per_token(config.context, training=True),
        "learning_rate": rate,
        "bits_per_byte": interval([run["bits_per_byte"] for run in runs]),
        "train_tokens_per_s": training(module, _objective(config, tokens, config.seed)),
        "decode": decoding(module, config.decode_contexts, config.decode_rows),
        "state_bytes": [[c, state_bytes(shape, c, STATE_VALUE_BYTES)] for c in _contexts(config)],
    }


def _train(
    shape: ModelConfig,
    config: CompareArchitecturesConfig,
    tokens: Artifact,
    folder: Path,
    seed: int,
    rate: float,
    steps: int,
) -> dict[str, float]:
    done = folder / "done.json"
    if done.is_file():
        found: dict[str, float] = json.loads(done.read_text(encoding="utf-8"))
        return found
    folder.mkdir(parents=True, exist_ok=True)
    held_out = HeldOut(TokenSplit(tokens.path, "validation"), config.context, config.validation_tokens)
    options = TrainingConfig(
        seed=seed,
        steps=steps,
        batch_size=config.batch_size,
        context=config.context,
        matrix_learning_rate=rate,
        learning_rate=rate * 0.15,
    )
    trainer = Trainer(
        build(shape, seed).to(device()),
        _objective(config, tokens, seed),
        options,
        folder,
        log=folder / "training.log.jsonl",
        evaluate=held_out.score,
        data=tokens.key,
        title=folder.parent.name,
    )
    summary = trainer.fit()
    result = {"bits_per_byte": summary.evaluation["bits_per_byte"]}
    done.write_text(json.dumps(result), encoding="utf-8")
    return result


def _objective(config: CompareArchitecturesConfig, tokens: Artifact, seed: int) -> Causal:
    return Causal(TokenSplit(tokens.path, "train"), config.context, config.batch_size, seed)


def interval(values: list[float], level: float = 0.95) -> dict[str, Any]:
    """Mean and Student's t interval of a few independent runs."""
    mean = statistics.fmean(values)
    spread = statistics.stdev(values) / len(values) ** 0.5
    half = float(stats.t.ppf((1 + level) / 2, len(values) - 1)) * spread
    return {"mean": mean, "low": mean - half, "high": mean + half, "values": values}


def table(results: list[dict[str, Any]], config: CompareArchitecturesConfig) -> str:
    """The comparison as Markdown, best first."""
    contexts = [point["context"] for point in results[0]["decode"]]
    head = ["design", "width", "parameters", "bits per byte (95%)", "rate", "train tok/s"]
    head += [f"decode tok/s at {c}" for c in contexts] + [f"state at {contexts[0]}", f"state at {contexts[-1]}"]
    lines = [f"Equal {config.equal}, {config.seeds} seeds, {config.steps} steps of {config.batch_size} rows.", ""]
    lines += ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for result in results:
        score, decode = result["bits_per_byte"], result["decode"]
        row = [result["name"], str(result["dim"]), human_count(result["parameters"])]
        row += [f"{score['mean']:.3f} ({score['low']:.3f}–{score['high']:.3f})", f"{result['learning_rate']:g}"]
        row += [f"{result['train_tokens_per_s']:.0f}", *(f"{point['tokens_per_s']:.0f}" for point in decode)]
        row += [human_bytes(decode[0]["state_bytes"]), human_bytes(decode[-1]["state_bytes"])]
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines) + "\n"


def _contexts(config: CompareArchitecturesConfig) -> list[int]:
    longest = max(config.decode_contexts)
    return [2**power for power in range(6, longest.bit_length() + 2)]
