"""Every objective: what its batches hold, that they depend on (seed, step) alone, and that a model learns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import VOCAB, tiny_config, write_tokens

from foundling.models.build import build
from foundling.models.config import AttentionConfig, MLPConfig, ModelConfig, RopeConfig, uniform_blocks
from foundling.training.objective import Objective
from foundling.training.objectives.causal import Causal
from foundling.training.objectives.contrastive import Contrastive, Crops, Embedder
from foundling.training.objectives.fill_in_the_middle import FillInTheMiddle
from foundling.training.objectives.masked import Masked
from foundling.training.objectives.masked_diffusion import MaskedDiffusion
from foundling.training.objectives.prefix_lm import PrefixLM
from foundling.training.objectives.span_corruption import Denoiser, SpanCorruption, ul2_denoisers
from foundling.training.token_files import TokenSplit
from foundling.training.trainer import Trainer

CONTEXT, ROWS, EXTRA = 32, 8, 30
MASK = VOCAB
SENTINELS = tuple(range(VOCAB, VOCAB + 20))
NAMES = [
    "causal",
    "prefix_lm",
    "fill_in_the_middle",
    "masked",
    "masked_diffusion",
    "span_corruption",
    "ul2",
    "contrastive",
]


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> TokenSplit:
    return TokenSplit(write_tokens(tmp_path_factory.mktemp("tokens"), documents=80), "train")


def make(name: str, split: TokenSplit, seed: int = 0) -> Objective:
    common = (split, CONTEXT, ROWS, seed)
    match name:
        case "causal":
            return Causal(*common)
        case "prefix_lm":
            return PrefixLM(*common)
        case "fill_in_the_middle":
            return FillInTheMiddle(*common, sentinels=(VOCAB, VOCAB + 1, VOCAB + 2), rate=0.5)
        case "masked":
            return Masked(*common, mask_id=MASK)
        case "masked_diffusion":
            return MaskedDiffusion(*common, mask_id=MASK)
        case "span_corruption":
            return SpanCorruption(*common, sentinels=SENTINELS)
        case "ul2":
            return SpanCorruption(*common, sentinels=SENTINELS, denoisers=ul2_denoisers((81, 82, 83)))
        case _:
            return Contrastive(Crops(split, 12, seed), CONTEXT, ROWS, seed, pad_id=0)


def model(name: str) -> torch.nn.Module:
    mixer = AttentionConfig(
        n_heads=2, n_kv_heads=2, head_dim=16, rope=RopeConfig(), causal=name not in ("masked", "masked_diffusion")
    )
    blocks = uniform_blocks(2, mixer, MLPConfig(hidden=64))
    config = ModelConfig(family="foundling", vocab_size=VOCAB + EXTRA, dim=32, blocks=blocks, tie_embeddings=True)
    module = build(config, 0)
    return Embedder(module) if name == "contrastive" else module


@pytest.mark.parametrize("name", NAMES)
def test_batches_are_functions_of_seed_and_step(name: str, split: TokenSplit) -> None:
    """A batch builder with hidden state would break exact resume."""
    one, other = make(name, split), make(name, split)
    for step in (0, 1, 2):
        one.batch(step)
    a, b, c = one.batch(5), other.batch(5), make(name, split, seed=1).batch(5)
    assert a.tokens.equal(b.tokens) and a.targets.equal(b.targets) and a.loss_mask.equal(b.loss_mask)
    assert all(a.extra[key].equal(b.extra[key]) for key in a.extra) and not a.tokens.equal(c.tokens)
    assert a.rows == len(a.sources) == ROWS and a.scored() > 0


@pytest.mark.parametrize("name", NAMES)
def test_a_model_learns_and_resumes_to_the_bit(name: str, split: TokenSplit, tmp_path: Path) -> None:
    """Each objective must move its loss, and a run that is stopped in the middle must end with the same weights."""
    config = tiny_config(steps=30, context=CONTEXT, checkpoint_every=10)

    def trainer(folder: str) -> Trainer:
        log = tmp_path / f"{folder}.log.jsonl"
        return Trainer(model(name), make(name, split), config, tmp_path / folder, log=log, data=name)

    whole, broken = trainer("whole"), trainer("broken")
    first = broken.objective.loss(broken.module, broken.objective.batch(0))
    summary = whole.fit()
    assert summary.loss < float(first.total.detach()) / float(first.count) - 0.1
    broken._checkpoint_due = lambda: broken.state.step == 20 and broken._save(wait=True) is None and _stop()  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        broken.fit()
    again = trainer("broken")
    assert again.fit().loss == summary.loss
    assert all(torch.equal(a, b) for a, b in zip(whole.module.parameters(), again.module.parameters(), strict=True))


def _stop() -> bool:
    raise KeyboardInterrupt


def test_prefix_is_seen_and_not_scored(split: TokenSplit) -> None:
    """The last prefix token predicts the first token after it; nothing before may be scored, for it was seen."""
    batch = make("prefix_lm", split).batch(0)
    for row in range(ROWS):
        first = int(batch.loss_mask[row].nonzero()[0])
        assert first == int(batch.extra["prefix"][row]) - 1


@given(step=st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_reordered_rows_hold_the_same_text(split: TokenSplit, step: int) -> None:
    """Fill-in-the-middle must not lose, repeat or mix up a token: taking the pieces back together gives the text."""
    ours, plain = make("fill_in_the_middle", split).batch(step), Causal(split, CONTEXT, ROWS, 0).batch(step)
    p, s, m = VOCAB, VOCAB + 1, VOCAB + 2
    for row in range(ROWS):
        text = [*ours.tokens[row].tolist(), int(ours.targets[row, -1])]
        original = [*plain.tokens[row].tolist(), int(plain.targets[row, -1])]
        if text[0] != p:
            assert text == original
            continue
        at_s, at_m = text.index(s), text.index(m)
        after = text[at_s + 1 : at_m]
        if at_s == 1:  # suffix first
            restored = text[at_m + 1 :] + after
        else:
            restored = text[1:at_s] + text[at_m + 1 :] + after
        assert restored == original[: CONTEXT - 2]


@given(step=st.integers(0, 1000), rate=st.floats(0.1, 0.5), span=st.sampled_from([0.0, 1.0, 3.0, 9.0]))
@settings(max_examples=30, deadline=None)
def test_corrupted_spans_can_be_put_back(split: TokenSplit, step: int, rate: float, span: float) -> None:
    """Every hidden span must follow its own sentinel, and only what is hidden is scored."""
    objective = SpanCorruption(split, CONTEXT, ROWS, 0, sentinels=SENTINELS, denoisers=(Denoiser(rate, span),))
    batch = objective.batch(step)
    original = objective.windows.read(objective.windows.of_step(step, ROWS), objective.length)
    for row in range(ROWS):
        prefix = int(batch.extra["prefix"][row])
        end = int(batch.loss_mask[row].nonzero()[-1]) + 1
        whole = [*batch.tokens[row].tolist(), int(batch.targets[row, -1])]
        given_part, hidden = whole[:prefix], whole[prefix : end + 1]
        spans: dict[int, list[int]] = {}
        for token in hidden:
            spans.setdefault(token, []) if token in SENTINELS else spans[list(spans)[-1]].append(token)
        restored = [t for token in given_part for t in (spans[token] if token in SENTINELS else [token])]
        assert restored == original[row].tolist()


def test_masking_rates(split: TokenSplit) -> None:
    """80 % of the chosen are masked, 10 % random, 10 % kept; whole words are chosen whole."""
    objective = Masked(split, CONTEXT, 512, 0, mask_id=MASK, rate=0.3)
    batch = objective.batch(0)
    chosen = batch.loss_mask.bool()
    assert chosen.float().mean() == pytest.approx(0.3, abs=0.02)
    assert (batch.tokens[chosen] == MASK).float().mean() == pytest.approx(0.8, abs=0.03)
    assert batch.tokens[~chosen].equal(batch.targets[~chosen])
    begins = np.arange(VOCAB + 1) % 4 == 0
    words = Masked(split, CONTEXT, 64, 0, mask_id=MASK, rate=0.3, begins_word=begins).batch(0)
    inside = ~begins[words.targets.numpy()][:, 1:]
    mask = words.loss_mask.numpy()
    assert (mask[:, 1:] == mask[:, :-1])[inside].all()


def test_diffusion_bound_of_a_uniform_model(split: TokenSplit) -> None:
    """With weights 1/t the loss of a model that knows nothing must average log(vocabulary) a token."""
    objective = MaskedDiffusion(split, CONTEXT, 256, 0, mask_id=MASK)

    class Uniform(torch.nn.Module):
        embedding = torch.nn.Embedding(VOCAB, 4)
        output = transform = output_bias = None

        def hidden(self, tokens: torch.Tensor, ctx: object = None) -> torch.Tensor:
            return torch.zeros(*tokens.shape, 4)

        def head(self, hidden: torch.Tensor) -> torch.Tensor:
            return hidden @ self.embedding.weight.T

    with torch.no_grad():
        total = sum(float(objective.loss(Uniform(), objective.batch(step)).total) for step in range(8))
    assert total / (8 * 256 * CONTEXT) == pytest.approx(np.log(VOCAB), rel=0.05)
