"""The arithmetic everyone gets wrong, on the textbooks' own cases; each says where its number was published."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path

import pytest

from foundling.core import hardware
from foundling.core.accelerators import ACCELERATORS, accelerator
from foundling.core.artifacts import Store
from foundling.core.errors import FoundlingError
from foundling.core.hardware import Rates
from foundling.core.units import parse_count
from foundling.models import cost
from foundling.models.presets import PUBLISHED
from foundling.planning import compute as work
from foundling.planning import memory, people, serving_cost
from foundling.planning.answer import Answer
from foundling.planning.economics import NEVER, Way, break_even, compare, sensitivity
from foundling.planning.subject import subject
from foundling.planning.training_run import plan_training
from foundling.training.config import TrainingConfig
from foundling.training.loss import chunk_size

BOOK = "Huyen 2025, AI Engineering"  # chapters 2, 7 and 8 hold most of these cases


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store whose machine has been measured: 2 threads, 30 GB/s, 150 and 400 GFLOP/s."""
    rates = Rates(bandwidth=30e9, fp32=150e9, bf16=400e9, threads=2, device="cpu")
    (tmp_path / "machine.json").write_text(json.dumps({"machine": hardware.describe(), **asdict(rates)}))
    return Store(str(tmp_path))


def test_seven_billion_parameters_in_16_bits_are_14_gb(store: Store) -> None:
    """BOOK, chapter 7: 7B × 2 bytes = 14 GB."""
    assert memory.weights(subject("7B", store))["weights at 16 bits"] == 14e9


def test_serving_13b_takes_31_gb_by_the_rule(store: Store) -> None:
    """BOOK, chapter 7: 13B × 2 bytes × 1.2 = 31.2 GB; gradients and Adam's two states: 13B × 3 × 2 bytes = 78 GB."""
    answer = memory.weights(subject("13B", store))
    assert answer["to serve, by the rule"] == pytest.approx(31.2e9)
    assert answer["gradients and two states, all at these bits"] == 78e9


def test_a_90_percent_sparse_7b_has_700m_weights(store: Store) -> None:
    """BOOK, chapter 2: a 7B model that is 90% sparse has 700 million parameters that are not zero."""
    answer = memory.weights(subject("7B", store), sparsity=0.9)
    assert answer["weights that are not zero"] == pytest.approx(700e6)
    assert answer["values and a bitmap of where they are"] == pytest.approx(1.4e9 + 7e9 / 8)


def test_gpt_3_on_256_h100s(store: Store) -> None:
    """BOOK, chapter 2: 3.14e23 / (256 × 5.2e18 a day) = 236 days; at 70% 337 days; at $2 an hour $4.142M."""
    rate = 5.2e18 / 86400
    where = work.devices("h100", 256, store, rate=rate, price=2)
    answer = work.compute(3.14e23, where, 0.7)
    assert answer["time at peak"] == pytest.approx(235.9, abs=0.1)
    assert answer["time at 70% utilisation"] == pytest.approx(337, abs=0.1)
    assert answer["cost"] == pytest.approx(4.14e6, rel=0.001)
    assert rate == pytest.approx(60.2e12, rel=0.001)  # an fp32 rate without matrix units
    beside = work.compute(3.14e23, where, 0.7, work.devices("h100", 256, store))
    assert beside["time at 70% of bf16's peak"] == pytest.approx(3.14e23 / (256 * 989.4e12 * 0.7 * 86400))
    assert any("leaves out the matrix units" in line for line in beside.assumptions)


def test_gpt_3_takes_its_published_flops(store: Store) -> None:
    """Brown et al. 2020, table D.1: 3.14e23 FLOPs = 6 × 174.6B × 300B (attention left out); 3640 PFLOP/s-days."""
    assert pytest.approx(3.14e23, rel=0.002) == 6 * 174.6e9 * 300e9
    assert work.training_flops(subject("175B", store), 300e9, 2048) == pytest.approx(3.15e23, rel=0.001)
    counted = work.training_flops(subject("gpt-3-175b", store), 300e9, 2048)
    attention = 3 * 4 * 2048 * 12288 * 96 * 300e9  # which the published figure leaves out: 2.8%
    assert counted == pytest.approx(3.14e23 + attention, rel=0.002)
    assert work.units(3.14e23, work.devices("h100", 1, store))["in PFLOP/s-days"] == pytest.approx(3640, rel=0.002)


def test_a_flop_per_second_day_is_86400_flop(store: Store) -> None:
    """BOOK, chapter 2: 1 FLOP/s-day = 60 × 60 × 24 = 86,400 FLOPs."""
    assert work.units(86400, work.devices("h100", 1, store))["in FLOP/s-days"] == 1


def test_mixtral_stores_46_7b_and_uses_12_9b(store: Store) -> None:
    """Jiang et al. 2024, arXiv:2401.04088: 46.7B (the paper's 47B) total, 12.9B (13B) active."""
    answer = memory.experts(subject("mixtral-8x7b", store))
    assert answer["total parameters (memory)"] == pytest.approx(46.7e9, rel=0.002)
    assert answer["active parameters (time)"] == pytest.approx(12.9e9, rel=0.002)


def test_llama_2_13b_caches_54_gb(store: Store) -> None:
    """BOOK, chapter 9: batch 32, context 2048, 16 bits: 2 × 32 × 2048 × 40 × 5120 × 2 bytes = 54 GB."""
    answer = memory.cache(subject("llama-2-13b", store), 2048, 32)
    assert answer["32 sequences"] == 2 * 32 * 2048 * 40 * 5120 * 2
    assert answer["32 sequences"] == pytest.approx(54e9, rel=0.01)


def test_labelling_costs() -> None:
    """BOOK, chapter 2: 13,000 pairs at $10 cost $130,000; a comparison $3.50 where writing costs $25."""
    answer = people.labels(13_000, 10, 0, 3.5, 30)
    assert answer["written examples"] == 130_000
    assert answer["hours of writing"] == 6500
    assert people.labels(1, 25, 0, 3.5, 0)["comparisons for the price of one written example"] == pytest.approx(
        25 / 3.5
    )


def test_the_last_mile_on_a_square_root_curve() -> None:
    """With error = effort^-1/2: 85 → 90% takes 100 - 44.4, 90 → 95% takes 400 - 100: 5.4 times as much."""
    points = {n: 1 - n**-0.5 for n in (10, 20, 40, 80, 160)}
    answer = people.last_mile(points, [0.85, 0.90, 0.95])
    assert answer["effort for 95.0%"] == pytest.approx(400, rel=0.01)
    assert answer["the last step over the one before"] == pytest.approx(300 / (100 - 1 / 0.15**2), rel=0.01)


def test_a_score_beyond_the_floor_is_refused_and_far_extrapolation_warned_of() -> None:
    """Nothing but another method gets past a floor."""
    points = {n: 0.9 - n**-0.5 for n in (10, 20, 40, 80, 160)}
    with pytest.raises(FoundlingError, match="beyond what the curve reaches"):
        people.last_mile(points, [0.85, 0.95])
    assert people.last_mile(points, [0.85, 0.88]).warnings
    with pytest.raises(FoundlingError, match="3 points are too few"):
        people.last_mile({1: 0.5, 2: 0.6, 3: 0.7}, [0.8, 0.9])


def test_tokens_by_language_cost_their_premium() -> None:
    """A premium is a price: BOOK, chapter 1, Burmese against English on MASSIVE, 72 tokens against 7."""
    rows = [("mya", 72 / 7, 1.0), ("eng", 1.0, 4.0)]
    answer = people.languages(rows, 3.0, 4e6, "eng")
    assert answer["cost in the reference"] == pytest.approx(3.0)
    assert answer["cost in the dearest"] == pytest.approx(3.0 * 72 / 7)


@pytest.mark.parametrize("name", ["llama-3-8b", "mixtral-8x7b", "mamba-2.8b", "deepseek-v3", "gemma-2-9b"])
def test_every_figure_is_the_config_s_own(name: str, store: Store) -> None:
    """The planner must not count for itself: its numbers are `models/cost.py`'s, which equal counted passes."""
    model = subject(name, store)
    shape = model.shape()
    assert memory.weights(model)["weights at 16 bits"] == cost.weight_bytes(shape)
    assert memory.cache(model, 1000, 2)["2 sequences"] == 2 * cost.state_bytes(shape, 1000)
    assert memory.experts(model)["active parameters (time)"] == cost.n_parameters(shape, active=True)
    assert work.training_flops(model, 10, 64) == 10 * cost.flops_per_token(shape, 64, training=True)
    need = memory.training_memory(model, 512)
    held = cost.weight_bytes(shape, 4)
    assert (need.weights, need.gradients, need.optimizer) == (held, held, cost.optimizer_bytes(shape))
    assert need.activations == cost.activation_bytes(shape, 512, logit_tokens=chunk_size(shape.vocab_size))


def test_every_preset_can_be_planned(store: Store) -> None:
    """A preset that a command cannot read is a hole in the tables."""
    for name in PUBLISHED:
        model = subject(name, store)
        assert memory.weights(model)["parameters"] == cost.n_parameters(model.shape())
        assert memory.cache(model, 64)["one sequence of 64 tokens"] >= 0


def test_h100_s_table_is_dense_and_the_tables_have_sources() -> None:
    """NVIDIA's datasheet says 1,979 TFLOP/s of bf16 with sparsity; half of it is what dense products get."""
    assert accelerator("H100").rate("bf16") == pytest.approx(1979e12 / 2, rel=0.001)
    assert accelerator("RTX 4090").name == "4090"
    for device in ACCELERATORS.values():
        assert device.source and device.watts > 0 and device.memory > 1e9 and device.bandwidth > 1e10
        assert list(device.rates.values()) == sorted(device.rates.values()), "narrower formats are never slower"
    with pytest.raises(FoundlingError, match="Did you mean 'h200'"):
        accelerator("h20o")
    with pytest.raises(FoundlingError, match="no 'fp8' rate"):
        accelerator("a100").rate("fp8")


def test_a_training_that_cannot_fit_is_refused_with_what_would(store: Store) -> None:
    """16 bytes a weight: 7B needs 108 GB before any activation, more than an H100 has."""
    model, rows = subject("llama-2-7b", store), {"context": 2048, "optimizer": "adamw"}
    with pytest.raises(FoundlingError, match=r"weights 27 GB.*What would fit: .*--devices 2"):
        plan_training(model, 1e9, TrainingConfig(batch_size=1, **rows), work.devices("h100", 1, store), None, store)
    eight = TrainingConfig(batch_size=8, micro_batch=1, recompute="all", **rows)
    fits = plan_training(model, 1e9, eight, work.devices("h100", 8, store, price=2.0), 0.4, store)
    flops = 1e9 * cost.flops_per_token(subject("llama-2-7b", store).shape(), 2048, training=True)
    assert fits["time"] == pytest.approx(flops / (8 * 989.4e12 * 0.4))
    assert fits["cost"] == pytest.approx(8 * fits["time"] / 3600 * 2)
    assert fits["weights"] == pytest.approx(fits["gradients"]) == pytest.approx(fits["optimizer"] / 2)


def test_planning_here_uses_the_measured_rates(store: Store) -> None:
    """A machine twice as fast must be given about half the time."""
    here = work.devices("this", 1, store)
    answer = plan_training(subject("foundling-3m", store), 4e6, TrainingConfig(), here, None, store)
    assert 10 < answer["time"] < 1000
    assert answer["steps"] == round(4e6 / 4096)


def test_a_million_tokens_from_a_throughput() -> None:
    """$2 an hour at 1,000 tokens/s: 3.6M tokens an hour, $0.5556 a million; half idle, twice as much."""
    assert serving_cost.per_million(1000, 2.0) == pytest.approx(2 / 3.6)
    assert serving_cost.per_million(1000, 2.0, 0.5) == pytest.approx(4 / 3.6)
    answer = serving_cost.measured(1000, 2.0, 1.0, 1e6, 1e12)
    assert answer["training, spread over the tokens"] == pytest.approx(1.0)
    assert answer["inference overtakes training after"] == pytest.approx(1e6 / (2 / 3.6) * 1e6)


def test_compression_helps_small_batches_most(store: Store) -> None:
    """At batch 1 a step reads the weights: a quarter of the bits is four times as fast, less the cache's share."""
    model, where = subject("llama-3-8b", store), work.devices("h100", 1, store, price=2)
    fast, slow = (serving_cost.decode_speed(model, where, 1, 128, bits) for bits in (4, 16))
    assert 3.5 < fast / slow < 4
    big = [serving_cost.decode_speed(model, where, 512, 2048, bits) for bits in (4, 16)]
    assert big[0] / big[1] < 1.5
    assert slow == pytest.approx(
        0.6 * 3350e9 / (cost.weight_bytes(model.shape()) + cost.state_bytes(model.shape(), 128))
    )


def test_break_even_is_where_the_lines_cross(tmp_path: Path) -> None:
    """12 months of 1,500 and 5,000 once, 0.4 a million against 3: 23,000 / (2.6 × 12) million tokens a month."""
    bought, own = Way("buy", 0, 0, 3), Way("fine-tune", 5000, 1500, 0.4)
    at = break_even(own, bought, 12)
    assert at == pytest.approx(23_000 / (2.6 * 12) * 1e6)
    assert own.total(at, 12) == pytest.approx(bought.total(at, 12))
    assert break_even(Way("x", 1, 0, 4), bought, 12) == NEVER
    assert break_even(Way("x", 0, 0, 2), bought, 12) == 0
    names = [name for name, _, _ in sensitivity(own, bought, 12)]
    assert names[0] == "buy: price of 1M tokens" and len(names) == 5
    answer = compare([bought, own], 2 * at, plot=tmp_path / "a.png")
    assert "fine-tune is the cheapest" in answer.title
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"
    assert compare([bought, Way("x", 1, 0, 4)], 1e6, plot=tmp_path / "b.png").warnings == ["x never breaks even"]


@pytest.mark.parametrize(
    ("text", "value"), [("7B", 7e9), ("1.4T", 1.4e12), ("3.14e23", 3.14e23), ("500k", 5e5), ("1_000", 1000)]
)
def test_counts_are_read_as_they_are_written(text: str, value: float) -> None:
    """`human_count` and papers write 7B."""
    assert parse_count(text) == pytest.approx(value)
    for nonsense in ("", "B", "seven", "inf", "nan"):
        with pytest.raises(ValueError):
            parse_count(nonsense)


def test_nonsense_is_refused(store: Store) -> None:
    """Each of these has an answer in a spreadsheet."""
    seven = subject("7B", store)
    h100 = work.devices("h100", 1, store)
    nonsense = [
        lambda: work.devices("h100", 0, store),
        lambda: work.devices("h100", 1.5, store),
        lambda: work.devices("h900", 1, store),
        lambda: work.devices("h100", 1, store, price=-2),
        lambda: work.devices("h100", 1, store, rate=0),
        lambda: work.compute(-1, h100),
        lambda: work.compute(math.nan, h100),
        lambda: work.compute(1e20, h100, 1.2),
        lambda: work.compute(1e20, h100, 0),
        lambda: work.training_flops(seven, 0, 128),
        lambda: memory.weights(seven, bits=0),
        lambda: memory.weights(seven, sparsity=1),
        lambda: memory.cache(seven, 128),
        lambda: memory.cache(subject("llama-3-8b", store), 0),
        lambda: people.labels(0, 10, 0, 3, 0),
        lambda: people.labels(-5, 10, 0, 3, 0),
        lambda: serving_cost.per_million(0, 2),
        lambda: compare([Way("buy", 0, 0, 1)], 1e6),
        lambda: compare([Way("buy", 0, 0, 1), Way("b", -1, 0, 1)], 1e6),
        lambda: subject("lama-3-8b", store),
        lambda: subject("-7B", store),
    ]
    for number, ask in enumerate(nonsense):
        with pytest.raises(FoundlingError):
            ask()
            pytest.fail(f"case {number} was answered")


def test_answers_are_the_same_for_machines() -> None:
    """`--json` must lose nothing that is printed."""
    answer: Answer = people.labels(2, 10, 0, 3.5, 0)
    data = answer.as_dict()
    assert data["figures"]["written examples"] == {"value": 20, "unit": "money"}
    assert data["formulas"] and data["assumptions"] and data["sources"]
