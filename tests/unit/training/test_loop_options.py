"""What can be asked of the loop: dropout, prefetching, background checkpoints, the best weights, rates found."""

from __future__ import annotations

import json
import math
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from tiny import TinyDecoder, tiny_config, write_tokens

from foundling.core.errors import FoundlingError
from foundling.models.build import build
from foundling.models.config import AttentionConfig, MLPConfig, ModelConfig, RopeConfig, uniform_blocks
from foundling.models.language_model import LanguageModel
from foundling.training import checkpoint
from foundling.training.bits_per_byte import HeldOut
from foundling.training.config import PretrainConfig
from foundling.training.loss import next_token_loss
from foundling.training.objectives.causal import Causal
from foundling.training.prefetch import Prefetched
from foundling.training.rate_search import best_factor, has_diverged, rising_factors
from foundling.training.token_files import TokenSplit
from foundling.training.trainer import Trainer


@pytest.fixture
def split(tmp_path: Path) -> TokenSplit:
    return TokenSplit(write_tokens(tmp_path / "tokens"), "train")


def decoder(vocab_size: int) -> LanguageModel:
    blocks = uniform_blocks(
        2, AttentionConfig(n_heads=2, n_kv_heads=2, head_dim=8, rope=RopeConfig()), MLPConfig(hidden=32)
    )
    config = ModelConfig(family="llama", vocab_size=vocab_size, dim=16, blocks=blocks, tie_embeddings=True)
    return build(config, 0)


def fit(folder: Path, split: TokenSplit, module: torch.nn.Module, **changes: object) -> list[dict]:  # type: ignore[type-arg]
    config = tiny_config(**changes)
    objective = Causal(split, config.context, config.batch_size, config.seed)
    Trainer(module, objective, config, folder, log=folder / "log.jsonl").fit()
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_dropout_is_applied_in_training_only_and_repeats(tmp_path: Path, split: TokenSplit) -> None:
    """It must change the loss, be the same on every run of one seed, and be gone when the model is used."""
    dropped = decoder(split.vocab_size)
    plain = fit(tmp_path / "plain", split, decoder(split.vocab_size), steps=3)
    first = fit(tmp_path / "first", split, dropped, steps=3, dropout=0.2)
    again = fit(tmp_path / "again", split, decoder(split.vocab_size), steps=3, dropout=0.2)
    curves = [[line["loss"] for line in run if line["kind"] == "step"] for run in (plain, first, again)]
    assert curves[1] == curves[2] != curves[0]
    tokens = Causal(split, 16, 2, 0).batch(0).tokens
    dropped.eval()
    with torch.no_grad():
        assert torch.equal(dropped(tokens), dropped(tokens))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_recomputed_blocks_give_the_same_curve(tmp_path: Path, split: TokenSplit, precision: str) -> None:
    """A block must run again with the weights and the dropout of the first time, which in bf16 are gone by then."""
    curves = []
    for recompute in ("none", "alternate", "all"):
        options = {"steps": 4, "dropout": 0.1, "precision": precision, "recompute": recompute}
        log = fit(tmp_path / recompute, split, decoder(split.vocab_size), **options)
        curves.append([(line["loss"], line["grad_norm"]) for line in log if line["kind"] == "step"])
    assert curves[0] == curves[1] == curves[2]


def test_prefetched_batches_are_the_objectives(split: TokenSplit) -> None:
    """Out of order, skipped and repeated steps must give what the objective itself gives."""
    ahead, plain = Prefetched(Causal(split, 16, 4, 0)), Causal(split, 16, 4, 0)
    for step in (0, 1, 2, 7, 8, 3, 3, 4):
        assert torch.equal(ahead.batch(step).tokens, plain.batch(step).tokens), step


def test_checkpoints_are_copies(tmp_path: Path) -> None:
    """Weights that move while a checkpoint is being written must not be in it."""
    saver, hold = checkpoint.Saver(tmp_path), threading.Event()
    real = checkpoint.save

    def slow(*arguments: object) -> None:
        hold.wait(10)
        real(*arguments)  # type: ignore[arg-type]

    weights, state = {"w": torch.zeros(3)}, {"step": 1, "recent": [1.0]}
    checkpoint.save = slow  # type: ignore[assignment]
    try:
        saver.save(1, weights, {}, state, wait=False)
        weights["w"] += 1
        state["recent"].append(2.0)  # type: ignore[attr-defined]
        hold.set()
        saver.finish()
    finally:
        checkpoint.save = real
    assert load_file(tmp_path / "checkpoint-00000001/weights/model.safetensors")["w"].tolist() == [0, 0, 0]
    assert json.loads((tmp_path / "checkpoint-00000001/state.json").read_text())["recent"] == [1.0]


def test_the_best_evaluation_is_kept(tmp_path: Path, split: TokenSplit) -> None:
    """With scores 3, 1, 2 the result must be the weights of the second evaluation, not of the last step."""
    scores, seen = iter([3.0, 1.0, 2.0]), []

    def evaluate(module: torch.nn.Module) -> dict[str, float]:
        seen.append({name: p.clone() for name, p in module.named_parameters()})
        return {"loss": next(scores)}

    config = tiny_config(steps=6, evaluate_every=2, keep_best=True)
    objective = Causal(split, config.context, config.batch_size, config.seed)
    module = TinyDecoder()
    Trainer(module, objective, config, tmp_path / "run", log=tmp_path / "log", evaluate=evaluate).fit()
    for name, value in module.named_parameters():
        assert torch.equal(value, seen[1][name]) and not torch.equal(value, seen[2][name]), name


def test_keep_best_without_an_evaluation_is_refused(tmp_path: Path, split: TokenSplit) -> None:
    """The option must not be ignored."""
    with pytest.raises(ValidationError, match="evaluate_every"):
        tiny_config(keep_best=True)
    config = tiny_config(keep_best=True, evaluate_every=2)
    with pytest.raises(FoundlingError, match="no evaluation"):
        Trainer(TinyDecoder(), Causal(split, 16, 8, 0), config, tmp_path, log=tmp_path / "log")


def test_found_rates_repair_bad_ones(tmp_path: Path, split: TokenSplit) -> None:
    """From rates 300 times too small, the sweep must find a factor that trains, and begin with the first weights."""
    small = {"optimizer": "adamw", "learning_rate": 3e-5, "steps": 40}
    without = fit(tmp_path / "without", split, TinyDecoder(), **small)
    found = fit(tmp_path / "found", split, TinyDecoder(), find_rates=40, **small)
    factor = next(line["factor"] for line in found if line["kind"] == "rates")
    steps = [[line["loss"] for line in run if line["kind"] == "step"] for run in (without, found)]
    assert factor >= 2.5 and len(steps[1]) == 40
    assert steps[1][0] == pytest.approx(steps[0][0], abs=0.01)
    assert steps[1][-1] < steps[0][-1]


def test_the_sweep_reads_its_curve() -> None:
    """A loss that falls until a factor near 1 and then explodes gives a factor below 1; a NaN ends the sweep."""
    factors = rising_factors(40)
    losses = [5 - 0.05 * i if f < 1 else 5 - 0.05 * i + 3 * (f - 1) for i, f in enumerate(factors)]
    assert 0.2 < best_factor(factors, losses) < 1
    assert has_diverged([5.0, float("nan")]) and has_diverged([2.0, 9.0]) and not has_diverged([2.0, 2.5])
    with pytest.raises(ValidationError, match="at least 20"):
        tiny_config(find_rates=5)


def test_loss_by_place_adds_up_to_the_whole(tmp_path: Path) -> None:
    """The buckets must cover every scored token once, and the total be the plain summed loss."""
    split = TokenSplit(write_tokens(tmp_path / "long", documents=12), "validation")
    held_out, module = HeldOut(split, 32, 10_000), decoder(split.vocab_size)
    with torch.no_grad():
        scores = held_out.score(module)
        rows = held_out.rows
        total = sum(
            float(next_token_loss(module, held_out._batch(rows[i : i + 4])).total) for i in range(0, len(rows), 4)
        )
    assert scores["nats_per_token"] == pytest.approx(total / held_out.tokens, rel=1e-5)
    assert {"nats_per_token_from_0", "nats_per_token_from_16"} <= scores.keys()


def test_loss_by_source_is_that_of_its_documents_alone(tmp_path: Path) -> None:
    """Guards against a document counted for another source, and against sources that do not add up to the whole."""
    directory = write_tokens(tmp_path / "mixed", documents=12)
    meta = json.loads((directory / "tokens.json").read_text())
    (directory / "tokens.json").write_text(json.dumps(meta | {"source_names": {"validation": ["books", "code"]}}))
    np.save(directory / "validation.source.npy", np.array([0, 1, 1] * 4, dtype=np.int32))
    split = TokenSplit(directory, "validation")
    held_out, module = HeldOut(split, 32, 10_000), decoder(split.vocab_size)
    with torch.no_grad():
        scores = held_out.score(module)
        bits = {"books": 0.0, "code": 0.0}
        for document in range(12):
            rows = [row for row in held_out.rows if row[1] in range(split.starts[document], split.starts[document + 1])]
            total = sum(float(next_token_loss(module, held_out._batch([row])).total) for row in rows)
            bits[("books", "code", "code")[document % 3]] += total / math.log(2)
    for name, n in {"books": split.bytes[::3].sum(), "code": split.bytes.sum() - split.bytes[::3].sum()}.items():
        assert scores[f"bits_per_byte/{name}"] == pytest.approx(bits[name] / n, rel=1e-5)
    assert sum(bits.values()) == pytest.approx(scores["bits_per_byte"] * split.bytes.sum(), rel=1e-5)


def test_diagnosis_measures_activations_and_logits(tmp_path: Path, split: TokenSplit) -> None:
    """The numbers must be those of a plain forward pass, and the hooks must be gone afterwards."""
    module = decoder(split.vocab_size)
    lines = fit(tmp_path / "run", split, module, steps=2, diagnose_every=2)
    found = next(line for line in lines if line["kind"] == "diagnosis")
    row = Causal(split, 16, 8, 0).batch(1).tokens[:1]
    with torch.no_grad():
        logits = module(row)
    assert found["logits"]["largest"] == pytest.approx(float(logits.abs().max()), rel=1e-5)
    assert list(found["activations"]) == ["blocks.0", "blocks.1"]
    assert not any(block._forward_hooks for block in module.blocks)


def test_kept_models_need_one_process() -> None:
    """The option must be refused where it cannot work."""
    with pytest.raises(ValidationError, match="one process"):
        PretrainConfig(keep_every=10, processes=2)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_compiled_blocks_train_as_plain_ones(tmp_path: Path, split: TokenSplit, precision: str) -> None:
    """A compiled run must give the plain run's curve within rounding, and compile once, not at every step."""
    torch._dynamo.utils.counters.clear()
    options = {"steps": 6, "precision": precision}
    plain = fit(tmp_path / "plain", split, decoder(split.vocab_size), **options)
    compiled = fit(tmp_path / "compiled", split, decoder(split.vocab_size), compile=True, **options)
    curves = [[line["loss"] for line in run if line["kind"] == "step"] for run in (plain, compiled)]
    assert curves[1] == pytest.approx(curves[0], abs=1e-4 if precision == "fp32" else 0.02)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 10  # of two blocks, whatever the steps
