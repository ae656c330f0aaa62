"""Scoring by trees: the same numbers as scoring each pair alone, at a fraction of the tokens."""

from __future__ import annotations

import random

import pytest
import torch

from foundling.inference import scoring_trees
from foundling.inference.engine import Engine
from foundling.inference.scoring_passes import NativeBehind
from foundling.inference.scoring_trees import Row, plan
from foundling.models.build import build
from foundling.models.config import (
    AttentionConfig,
    MLAConfig,
    MLPConfig,
    ModelConfig,
    NormConfig,
    RopeConfig,
    uniform_blocks,
)
from foundling.models.kernels.structs import tiles
from foundling.models.language_model import LanguageModel


def drawn(rng: random.Random, n: int) -> list[int]:
    return [rng.randrange(256) for _ in range(n)]


def few_shot_pairs(seed: int = 0) -> list[tuple[list[int], list[int]]]:
    """Three questions behind the same 60 tokens and two behind others, four choices each, of which two begin alike."""
    rng = random.Random(seed)
    first, second = drawn(rng, 60), drawn(rng, 55)
    pairs = []
    for examples in (first, first, first, second, second):
        context = examples + drawn(rng, rng.randrange(3, 12))
        beginning = drawn(rng, 3)
        choices = [drawn(rng, 1), drawn(rng, 6), beginning + drawn(rng, 2), beginning + drawn(rng, 4)]
        pairs += [(context, choice) for choice in choices]
    rng.shuffle(pairs)
    return pairs


def test_a_row_is_a_tree() -> None:
    """Guards against branches that see each other, and tokens computed once per choice."""
    row = Row.of([7, 8], [(0, [1, 2, 3]), (1, [1, 2, 9]), (2, [5]), (3, [4, 6])])
    assert row.tokens == [7, 8, 1, 2, 4] and row.parents == [-1, 0, 1, 2, 1]
    assert row.positions().tolist() == [0, 1, 2, 3, 2]
    assert list(zip(row.owners, row.outputs, row.targets, strict=True)) == [
        (0, 1, 1), (0, 2, 2), (0, 3, 3), (1, 1, 1), (1, 2, 2), (1, 3, 9), (2, 1, 5), (3, 1, 4), (3, 4, 6),
    ]  # fmt: skip
    assert row.visible()[4].tolist() == [True, True, False, False, True]


def test_plan_computes_worked_examples_once() -> None:
    """Guards against prefixes that swallow a whole context, are cut short by a stranger, or are not found."""
    pairs = few_shot_pairs()
    groups, rest = plan(pairs)
    assert not rest and sorted(len(group.prefix) for group in groups) == [55, 60]
    assert sorted(owner for group in groups for row in group.rows for owner in set(row.owners)) == list(range(20))
    tokens = sum(len(group.prefix) + sum(len(row.tokens) for row in group.rows) for group in groups)
    assert tokens < 60 + 55 + 5 * (11 + 5 + 3 + 1 + 3)
    assert plan(pairs, longest=30)[1] == sorted(range(20), key=lambda i: (tuple(pairs[i][0]), i))
    equal = [([1] * 60, [n]) for n in range(4)]
    [group] = plan(equal)[0]
    assert group.prefix == () and len(group.rows) == 1 and group.rows[0].tokens == [1] * 60


@pytest.mark.parametrize("kind", ["plain", "window", "alibi", "latents"])
def test_scores_equal_each_pair_alone(module: LanguageModel, kind: str) -> None:
    """Guards against masks, windows and biases that go by the place in the row instead of the place in the text."""
    if kind != "plain":
        attention: AttentionConfig | MLAConfig = AttentionConfig(
            n_heads=4, n_kv_heads=2, head_dim=8, window=20 if kind == "window" else None, alibi=kind == "alibi",
            softcap=9.0 if kind == "window" else None,
        )  # fmt: skip
        if kind == "latents":
            attention = MLAConfig(n_heads=4, kv_rank=16, nope_dim=8, rope_dim=8, v_dim=8, rope=RopeConfig())
        blocks = uniform_blocks(2, attention, MLPConfig(hidden=64))
        config = ModelConfig(family="qwen3", vocab_size=259, dim=32, blocks=blocks, norm=NormConfig())
        module = build(config, seed=2, zero_outputs=False)
    pairs = few_shot_pairs()
    engine = Engine(module, None)
    scores = engine.score(pairs)
    for (context, continuation), score in zip(pairs, scores, strict=True):
        with torch.no_grad():
            rows = module(torch.tensor([context + continuation]))[0].log_softmax(-1)[len(context) - 1 : -1]
        expected = rows.gather(1, torch.tensor(continuation)[:, None])[:, 0]
        assert score.tokens_logprobs == pytest.approx(expected.tolist(), abs=1e-4)
        assert score.is_greedy == bool((rows.argmax(-1) == torch.tensor(continuation)).all())
    assert engine.stats().computed_tokens < sum(len(a) + len(b) - 1 for a, b in pairs) / 4


def test_some_of_the_pairs_score_to_the_last_bit_as_all_do(module: LanguageModel) -> None:
    """Guards against a resumed evaluation whose scores depend on what had been scored before it was broken off."""
    pairs = few_shot_pairs(1)
    whole = dict(Engine(module, None).score_each(pairs))
    part = dict(Engine(module, None).score_each(pairs, frozenset({3, 11})))
    assert part == {3: whole[3], 11: whole[11]} and set(whole) == set(range(20))


@pytest.mark.parametrize("qk_norm", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.bfloat16, 0.1)])
def test_packed_passes_equal_the_modules(
    qk_norm: bool, dtype: torch.dtype, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against native norms, rotations and activations that differ from the module's, and padding that counts."""
    norm = NormConfig()
    attention = AttentionConfig(
        n_heads=4, n_kv_heads=2, head_dim=32, rope=RopeConfig(), qk_norm=norm if qk_norm else None, qkv_bias=not qk_norm
    )
    blocks = uniform_blocks(2, attention, MLPConfig(hidden=128))
    config = ModelConfig(family="qwen3", vocab_size=272, dim=64, blocks=blocks, norm=norm)
    engine = Engine(build(config, seed=1, zero_outputs=False).to(dtype), None)
    if scoring_trees.TreeScorer(engine.runner)._packed is None:
        pytest.skip("no compiler for the native kernels")
    pairs = few_shot_pairs() + [([n] * (9 + n), choice) for n in range(3) for choice in ([5], [6, 7, 8], [6, 9])]
    ours = engine.score(pairs)
    monkeypatch.setattr(scoring_trees, "packed", lambda module: None)
    for mine, theirs in zip(ours, engine.score(pairs), strict=True):
        assert mine.tokens_logprobs == pytest.approx(theirs.tokens_logprobs, abs=tolerance)


@pytest.mark.skipif(not tiles(), reason="no tiles for bfloat16 here")
@pytest.mark.parametrize("window", [None, 20])
def test_native_passes_equal_each_context_alone(window: int | None) -> None:
    """Guards against a prefix that ends inside a block, rows that share one of their own, and padding that counts."""
    attention = AttentionConfig(n_heads=4, n_kv_heads=2, head_dim=32, rope=RopeConfig(), window=window)
    blocks = uniform_blocks(2, attention, MLPConfig(hidden=128))
    config = ModelConfig(family="qwen3", vocab_size=263, dim=64, blocks=blocks)
    engine = Engine(build(config, seed=1, zero_outputs=False).bfloat16(), None)
    rng = random.Random(3)
    pairs = []
    for shared in (64, 55, 1300, 0):
        examples = drawn(rng, shared)
        for _ in range(9):
            context = examples + drawn(rng, rng.randrange(1, 40))
            pairs += [(context, drawn(rng, 1)) for _ in range(4)]
    groups, _ = plan(pairs)
    scorer = scoring_trees.TreeScorer(engine.runner)
    assert {len(group.prefix) for group in groups} == {64, 55, 1300, 0}
    assert all(isinstance(scorer._forward_of(group), NativeBehind) for group in groups)
    scores = engine.score(pairs)
    for at in range(0, len(pairs), 4):  # the same bits as by itself, without a prefix
        alone = Engine(engine.runner.module, None).score(pairs[at : at + 4])
        assert [one.tokens_logprobs for one in alone] == [one.tokens_logprobs for one in scores[at : at + 4]]
