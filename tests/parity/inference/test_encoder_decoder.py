"""Encoder-decoder requests under the engine's scheduler against transformers' T5: greedy tokens, scores, sharing."""

from __future__ import annotations

import random

import pytest
import torch
from transformers import T5Config, T5ForConditionalGeneration

from foundling.core.errors import FoundlingError
from foundling.inference.engine import Engine, Request, SamplingParams
from foundling.inference.model import Model
from foundling.models.checkpoint import load_module
from foundling.models.language_model import LanguageModel

NEW = 12
SOURCES = [[random.Random(i).randrange(2, 97) for _ in range(length)] for i, length in enumerate((3, 40, 17, 17, 70))]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[T5ForConditionalGeneration, LanguageModel]:
    path = tmp_path_factory.mktemp("t5")
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=97, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, feed_forward_proj="gated-gelu",
        decoder_start_token_id=0, initializer_factor=3.0,
    )  # fmt: skip
    theirs = T5ForConditionalGeneration(config).eval()
    theirs.save_pretrained(path)
    return theirs, load_module(path)


@pytest.fixture(scope="module")
def expected(pair: tuple[T5ForConditionalGeneration, LanguageModel]) -> list[list[int]]:
    options = {"do_sample": False, "max_new_tokens": NEW, "min_new_tokens": NEW}
    found = [pair[0].generate(torch.tensor([source]), **options)[0, 1:].tolist() for source in SOURCES]
    assert len({str(tokens) for tokens in found}) > 3, "the source does not matter"
    return found


@pytest.mark.parametrize(
    "options", [{}, {"max_batch": 2}, {"max_tokens_per_step": 20, "max_chunk": 5}, {"max_tokens_in_cache": 96}]
)
def test_greedy_tokens_in_any_batch(
    pair: tuple[T5ForConditionalGeneration, LanguageModel], expected: list[list[int]], options: dict[str, int]
) -> None:
    engine = Engine(pair[1], None, **{"max_batch": 8, **options})
    params = SamplingParams(max_tokens=NEW, bad_words_ids=((1,),))  # as min_new_tokens does: no end
    for _ in range(2):  # again, with everything cached
        done = engine.generate([Request([0], params, encoder_ids=source) for source in SOURCES])
        assert [one.tokens for one in done] == expected
    engine.weights_changed()
    assert engine.generate([Request([0], params, encoder_ids=SOURCES[1])])[0].tokens == expected[1]


def test_a_source_that_was_evicted_is_read_again(
    pair: tuple[T5ForConditionalGeneration, LanguageModel], expected: list[list[int]]
) -> None:
    engine = Engine(pair[1], None, max_batch=8)
    engine.runner.encodings.room = 50
    params = SamplingParams(max_tokens=NEW, bad_words_ids=((1,),))
    for source, tokens in [*zip(SOURCES, expected, strict=True)] * 2:
        assert engine.generate([Request([0], params, encoder_ids=source)])[0].tokens == tokens


def test_scores(pair: tuple[T5ForConditionalGeneration, LanguageModel]) -> None:
    targets = [[5, 6, 7], [9], [80, 3]]
    scores = Engine(pair[1], None).score(list(zip(SOURCES, targets)))
    for source, target, score in zip(SOURCES, targets, scores):
        with torch.no_grad():
            logits = pair[0](input_ids=torch.tensor([source]), labels=torch.tensor([target])).logits[0]
        logprobs = logits.log_softmax(-1)[torch.arange(len(target)), target]
        assert score.tokens_logprobs == pytest.approx(logprobs.tolist(), abs=1e-4)


def test_logits(pair: tuple[T5ForConditionalGeneration, LanguageModel]) -> None:
    model = Model(pair[1], None)  # type: ignore[arg-type]
    with torch.no_grad():
        expected = pair[0](input_ids=torch.tensor([SOURCES[0]]), decoder_input_ids=torch.tensor([[0, 7]])).logits
    torch.testing.assert_close(model.logits([[0, 7]], [SOURCES[0]]), expected, atol=1e-4, rtol=0)
    with pytest.raises(FoundlingError, match="encoder_ids"):
        model.logits([[0]])


def test_samples_share_their_source(pair: tuple[T5ForConditionalGeneration, LanguageModel]) -> None:
    engine = Engine(pair[1], None, max_batch=8)
    params = SamplingParams(max_tokens=6, temperature=1.0, n=4, seed=3)
    done = engine.generate([Request([0], params, encoder_ids=SOURCES[0])])
    assert len({str(one.tokens) for one in done}) > 1
    assert len(engine.runner.encodings._hidden) == 1


def test_what_does_not_fit_the_model_is_refused(pair: tuple[T5ForConditionalGeneration, LanguageModel]) -> None:
    engine = Engine(pair[1], None)
    with pytest.raises(FoundlingError, match="through an encoder"):
        engine.generate([Request([0])])
    with pytest.raises(FoundlingError, match="token 99"):
        engine.generate([Request([0], encoder_ids=[99])])
