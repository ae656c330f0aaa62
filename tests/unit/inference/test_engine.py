"""The engine on a tiny real model: its output depends on nothing but the request."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from foundling.core.errors import FoundlingError
from foundling.inference.engine import Engine, Request, SamplingParams
from foundling.models.build import build
from foundling.models.config import AttentionConfig, MLPConfig, ModelConfig, RopeConfig, uniform_blocks
from foundling.models.language_model import LanguageModel
from foundling.models.pooling import PoolingConfig
from foundling.tokenization.tokenizer import Tokenizer


def reference(module: LanguageModel, prompt: list[int], count: int) -> tuple[list[int], list[float]]:
    """Greedy decoding by a full forward pass for every token."""
    tokens, logprobs = list(prompt), []
    with torch.no_grad():
        for _ in range(count):
            row = module(torch.tensor([tokens]))[0, -1].log_softmax(-1)
            tokens.append(int(row.argmax()))
            logprobs.append(float(row.max()))
    return tokens[len(prompt) :], logprobs


def prompts(seed: int, count: int) -> list[list[int]]:
    """Prompts of many lengths, some of which begin alike."""
    rng = random.Random(seed)
    common = [rng.randrange(256) for _ in range(40)]
    return [
        common[: rng.choice([0, 16, 33, 40])] + [rng.randrange(256) for _ in range(rng.randrange(1, 30))]
        for _ in range(count)
    ]


GREEDY = SamplingParams(max_tokens=12, ignore_eos=True)


def test_cached_decoding_equals_the_full_forward_pass(module: LanguageModel) -> None:
    """Guards against wrong positions, masks or cache slots, for every length around the block size."""
    asked = [list(range(1, length + 1)) for length in (1, 2, 15, 16, 17, 31, 32, 33, 64)]
    done = Engine(module, None, max_batch=4).generate([Request(prompt, GREEDY) for prompt in asked])
    for prompt, completion in zip(asked, done, strict=True):
        tokens, logprobs = reference(module, prompt, 12)
        assert completion.tokens == tokens and completion.finish_reason == "length"
        assert completion.logprobs == pytest.approx(logprobs, abs=1e-4)


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    max_batch=st.integers(1, 8),
    room=st.sampled_from([96, 128, 400, 2000]),
    chunk=st.sampled_from([3, 16, 512]),
    n=st.sampled_from([1, 3]),
    late=st.booleans(),
)
def test_output_does_not_depend_on_the_schedule(
    exact: LanguageModel, seed: int, max_batch: int, room: int, chunk: int, n: int, late: bool
) -> None:
    """Guards against any influence of batch, prefix cache, chunking, preemption, sharing or arrival on the result."""
    asked = prompts(seed, 6)
    engine = Engine(exact, None, max_batch=max_batch, max_tokens_in_cache=room, max_chunk=chunk, max_tokens_per_step=24)
    sampled = SamplingParams(max_tokens=9, temperature=1.3, top_p=0.9, seed=seed, n=n, ignore_eos=True)
    requests = [Request(prompt, params) for prompt in asked for params in (GREEDY, sampled)]
    done = []
    for part in [requests[:5], requests[5:]] if late else [requests]:
        done += engine.generate(part)
    alone: list[list[int]] = []
    for request in requests:
        alone += [completion.tokens for completion in Engine(exact, None).generate([request])]
    assert [completion.tokens for completion in done] == alone
    for prompt, first in zip(asked, alone[:: 1 + n], strict=True):
        assert first == reference(exact, prompt, 12)[0]


def test_n_samples_differ_and_share_the_prompt(module: LanguageModel) -> None:
    """Guards against n equal samples, and against computing the prompt n times."""
    engine = Engine(module, None, max_batch=8)
    params = SamplingParams(max_tokens=8, temperature=1.5, seed=3, n=8, ignore_eos=True)
    done = engine.generate([Request(list(range(50)), params)])
    assert len({tuple(completion.tokens) for completion in done}) == 8
    assert [completion.index for completion in done] == list(range(8))
    assert engine.stats().computed_tokens == 50 + 7 + 8 * 7


def test_scores_equal_the_full_forward_pass_and_share_contexts(module: LanguageModel) -> None:
    """Guards against off-by-one targets, wrong masks under padding, and contexts computed once per choice."""
    rng = random.Random(5)
    context = [rng.randrange(256) for _ in range(64)]
    pairs = [(context, [rng.randrange(256) for _ in range(n)]) for n in (1, 2, 7, 20)]
    pairs += [([9], [1, 2, 3]), (context[:5], context[5:50])]
    for chunk in (512, 10):
        engine = Engine(module, None, max_chunk=chunk)
        for (left, right), score in zip(pairs, engine.score(pairs), strict=True):
            with torch.no_grad():
                rows = module(torch.tensor([left + right]))[0].log_softmax(-1)[len(left) - 1 : -1]
            expected = rows.gather(1, torch.tensor(right)[:, None])[:, 0]
            assert score.tokens_logprobs == pytest.approx(expected.tolist(), abs=1e-4)
            assert score.logprob == pytest.approx(float(expected.sum()), abs=1e-3)
            assert score.is_greedy == bool((rows.argmax(-1) == torch.tensor(right)).all())
        assert engine.stats().computed_tokens < 64 + 30 + 3 + 50 + 4 * 16


def test_greedy_continuation_scores_as_greedy(module: LanguageModel) -> None:
    """Guards against is_greedy being always false."""
    tokens, logprobs = reference(module, [5, 6, 7], 6)
    (score,) = Engine(module, None).score([([5, 6, 7], tokens)])
    assert score.is_greedy and score.tokens_logprobs == pytest.approx(logprobs, abs=1e-4)


def test_stop_strings_straddle_tokens(module: LanguageModel, tokenizer: Tokenizer) -> None:
    """Guards against stop strings that are only found when they are one token, and against showing half of one."""
    engine = Engine(module, tokenizer)
    prompt = tokenizer.encode("stop here")
    free = engine.generate([Request(prompt, SamplingParams(max_tokens=40, ignore_eos=True))])[0]
    ascii_runs = [i for i in range(5, len(free.text) - 1) if free.text[i : i + 2] not in free.text[: i + 1]]
    stop = free.text[ascii_runs[0] : ascii_runs[0] + 2]
    params = SamplingParams(max_tokens=40, ignore_eos=True, stop=("never there", stop))
    done = engine.generate([Request(prompt, params)])[0]
    assert done.finish_reason == "stop" and done.text == free.text[: ascii_runs[0]]
    engine.add(Request(prompt, params, id="x"))
    shown = ""
    for _ in range(60):
        for event in engine.step():
            shown += event.text
            assert stop not in shown
    assert shown == done.text


def test_stop_ids_end_the_text_and_stay_in_the_tokens(module: LanguageModel, tokenizer: Tokenizer) -> None:
    """Guards against losing the end-of-turn token that reinforcement learning trains on."""
    tokens, _ = reference(module, [1, 2, 3], 5)
    at = next(i for i in range(1, 5) if tokens[i] not in tokens[:i])
    done = Engine(module, tokenizer).generate([Request([1, 2, 3], SamplingParams(stop_ids=(tokens[at],)))])[0]
    assert done.finish_reason == "stop" and done.tokens == tokens[: at + 1]
    assert done.text == tokenizer.decode(tokens[:at]) and len(done.logprobs) == at + 1


def test_prompt_that_is_too_long_is_named_and_harms_nobody(module: LanguageModel) -> None:
    """Guards against one bad request failing its batch, and against cutting prompts in silence."""
    engine = Engine(module, None)
    long, short = engine.generate([Request([1] * 128, GREEDY), Request([1, 2], GREEDY)])
    assert long.finish_reason == "prompt_too_long" and "128 tokens" in long.message
    assert short.tokens == reference(module, [1, 2], 12)[0]
    nearly = engine.generate([Request([1] * 120, GREEDY)])[0]
    assert nearly.finish_reason == "length" and len(nearly.tokens) == 8
    with pytest.raises(FoundlingError, match="128 tokens"):
        engine.add(Request([1] * 128, GREEDY))
    with pytest.raises(FoundlingError, match="token 259"):
        engine.generate([Request([259], GREEDY)])
    with pytest.raises(FoundlingError, match="empty"):
        engine.generate([Request([], GREEDY)])


def test_out_of_blocks_is_named(module: LanguageModel) -> None:
    """Guards against a hang when a sequence outgrows the whole cache; here the cache also bounds the length."""
    engine = Engine(module, None, max_tokens_in_cache=32)
    done = engine.generate([Request([1, 2, 3], SamplingParams(max_tokens=100, ignore_eos=True))])[0]
    assert done.finish_reason == "length" and len(done.tokens) == 29


def test_nan_logits_end_only_their_own_sequence(module: LanguageModel) -> None:
    """Guards against NaN spreading through padding or reused cache blocks."""
    engine = Engine(module, None, max_batch=4, max_tokens_in_cache=256)
    expected = reference(module, [1, 2, 3], 12)[0]
    weight = module.embedding.weight
    kept = weight[200].clone()
    with torch.no_grad():
        weight[200] = torch.nan
    try:
        for _ in range(3):
            asked = [[1, 2, 3], [7, 200, 8], [200] * 40, list(range(30))]
            good, *bad, other = engine.generate([Request(prompt, GREEDY) for prompt in asked])
            assert [completion.finish_reason for completion in bad] == ["nan_logits"] * 2
            assert good.tokens == expected and len(other.tokens) == 12
    finally:
        with torch.no_grad():
            weight[200] = kept
    done = engine.generate([Request(list(range(100, 190)), GREEDY), Request([1, 2, 3], GREEDY)])
    assert done[1].tokens == expected and done[0].tokens == reference(module, list(range(100, 190)), 12)[0]


def test_new_weights_are_used_at_once(module: LanguageModel) -> None:
    """Guards against answering from keys and values of the weights before a training step, also in mid-answer."""
    engine = Engine(module, None)
    prompt = list(range(40))
    before = engine.generate([Request(prompt, GREEDY)])[0].tokens
    engine.add(Request(prompt, GREEDY, id="running"))
    engine.step()
    with torch.no_grad():
        module.norm.weight.mul_(-1)
    try:
        engine.weights_changed()
        after = engine.generate([Request(prompt, GREEDY)])[0].tokens
        assert after == reference(module, prompt, 12)[0] != before
    finally:
        with torch.no_grad():
            module.norm.weight.mul_(-1)
        engine.weights_changed()
    assert engine.generate([Request(prompt, GREEDY)])[0].tokens == before


def test_cancel_frees_the_blocks_and_says_so(module: LanguageModel, tokenizer: Tokenizer) -> None:
    """Guards against leaks when clients go away."""
    engine = Engine(module, tokenizer)
    request_id = engine.add(Request([1, 2, 3], SamplingParams(max_tokens=100, n=2)))
    with pytest.raises(FoundlingError, match="in use"):
        engine.add(Request([1], GREEDY, id=request_id))
    engine.step()
    engine.cancel(request_id)
    ends = [event.finish_reason for event in engine.step()]
    assert ends.count("cancelled") == 2 and engine.stats().cache_used == 0 and engine.scheduler.idle


def test_training_mode_is_put_back_and_gradients_still_flow(module: LanguageModel) -> None:
    """Guards against a rollout that leaves the trained module in evaluation mode, or poisons it for autograd."""
    module.train()
    try:
        Engine(module, None).generate([Request([1, 2], GREEDY)])
        assert module.training
        module(torch.tensor([[1, 2, 3]])).sum().backward()
        assert module.embedding.weight.grad is not None
    finally:
        module.zero_grad()
        module.eval()


def test_embeddings_do_not_depend_on_padding(module: LanguageModel, tokenizer: Tokenizer) -> None:
    """Guards against padding that is averaged in."""
    engine = Engine(module, tokenizer)
    together = engine.embed(["short", "a much longer text", ""])
    alone = engine.embed(["short"])
    assert together.shape == (3, 32)
    assert together[0] == pytest.approx(alone[0], abs=1e-5)
    assert (together**2).sum(1) == pytest.approx([1, 1, 1], abs=1e-5)


def test_a_model_that_sees_both_ways_only_embeds(tokenizer: Tokenizer) -> None:
    """Guards encoders: they must refuse to continue or score a text (a server went down of it), and embed."""
    mixer = AttentionConfig(n_heads=2, n_kv_heads=2, head_dim=16, rope=RopeConfig(), causal=False)
    blocks = uniform_blocks(1, mixer, MLPConfig(hidden=32))
    config = ModelConfig(family="foundling", vocab_size=tokenizer.vocab_size, dim=32, blocks=blocks)
    full = config.max_positions
    engine = Engine(build(config, 0), tokenizer, pooling=lambda: PoolingConfig(max_tokens=2 * full))
    for use in (lambda: engine.generate([Request([1, 2], GREEDY)]), lambda: engine.score([([1], [2])])):
        with pytest.raises(FoundlingError, match="sees both ways"):
            use()
    longer, whole = engine.embed(["x" * 3 * full, "x" * full])  # cut to what the model reads, to the last position
    assert engine.embed(["some text"]).shape == (1, 32) and longer == pytest.approx(whole)


def test_presence_and_frequency_penalties_count_the_answer_only(module: LanguageModel) -> None:
    """Guards against penalising the prompt's words, and against penalties that never grow."""
    plain = Engine(module, None).generate([Request([1, 2, 3], GREEDY)])[0].tokens
    params = SamplingParams(max_tokens=12, ignore_eos=True, presence_penalty=1e4)
    once = Engine(module, None).generate([Request([1, 2, 3], params)])[0].tokens
    assert len(set(once)) == 12 and once[0] == plain[0]
    allowed = SamplingParams(max_tokens=12, ignore_eos=True, frequency_penalty=1e4, logit_bias={5: 25e3})
    tokens = Engine(module, None).generate([Request([5, 5, 5], allowed)])[0].tokens
    assert tokens[:3] == [5, 5, 5] and tokens.count(5) == 3


def test_min_tokens_and_bad_words_hold(module: LanguageModel, tokenizer: Tokenizer) -> None:
    """Guards against ending too early, and against banned text that sneaks in."""
    engine = Engine(module, tokenizer)
    tokens = engine.generate([Request([1, 2, 3], GREEDY)])[0].tokens
    params = SamplingParams(max_tokens=12, stop_ids=(tokens[0], tokens[1]), min_tokens=4)
    done = engine.generate([Request([1, 2, 3], params)])[0].tokens
    assert not {tokens[0], tokens[1]} & set(done[:4]) and len(done) >= 4
    banned = SamplingParams(max_tokens=12, ignore_eos=True, bad_words_ids=((tokens[0], tokens[1]), (tokens[2],)))
    done = engine.generate([Request([1, 2, 3], banned)])[0].tokens
    assert done[0] == tokens[0] and done[1] != tokens[1] and tokens[2] not in done


def test_prompt_logprobs_and_echo(module: LanguageModel, tokenizer: Tokenizer) -> None:
    """Guards against scores shifted by one, lost in chunks, or missing for some of the n continuations."""
    prompt = tokenizer.encode("what was said before, at some length")
    rows = module(torch.tensor([prompt]))[0].log_softmax(-1).detach()
    expected = rows[:-1].gather(1, torch.tensor(prompt[1:])[:, None])[:, 0].tolist()
    params = SamplingParams(max_tokens=4, ignore_eos=True, prompt_logprobs=2, logprobs=3, echo=True, n=2)
    for chunk in (512, 7):
        engine = Engine(module, tokenizer, max_chunk=chunk)
        engine.generate([Request(prompt, GREEDY)])
        for done in engine.generate([Request(prompt, params)]):
            assert done.prompt_logprobs == pytest.approx(expected, abs=1e-4)
            assert done.prompt_top_logprobs is not None and done.top_logprobs is not None
            best = [max(top.values()) for top in done.prompt_top_logprobs]
            assert best == pytest.approx(rows[:-1].amax(-1).tolist(), abs=1e-4)
            assert [len(top) for top in done.top_logprobs] == [3] * 4
            chosen = [top[token] for top, token in zip(done.top_logprobs, done.tokens, strict=True)]
            assert chosen == pytest.approx(done.logprobs, abs=1e-6)
            assert done.text == tokenizer.decode(prompt) + tokenizer.decode(done.tokens)
