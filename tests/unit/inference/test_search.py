"""Choosing among answers, with answers made by hand and with the tiny model."""

from __future__ import annotations

import itertools

import pytest
import torch

from foundling.core.errors import FoundlingError
from foundling.inference.engine import Completion, Engine, Request, SamplingParams
from foundling.inference.explain import explain
from foundling.inference.search import (
    beam_search,
    best_of,
    choose_by_mean_logprob,
    choose_by_score,
    choose_by_vote,
    choose_shortest_valid,
    coverage,
    first_valid,
    selection,
)
from foundling.inference.structured.repair import repair_json, repair_yaml
from foundling.models.language_model import LanguageModel
from foundling.tokenization.tokenizer import Tokenizer


def answer(text: str, *logprobs: float) -> Completion:
    """A completion of that text."""
    return Completion(text, [1] * len(logprobs), list(logprobs), "stop")


def test_choices() -> None:
    """Guards against choosing the longest by its sum, counting missing answers as votes, or preferring the invalid."""
    samples = [answer("4", -1.0), answer("five", -0.2, -0.2, -0.2, -0.2, -0.2), answer("4.", -3.0), answer("", -9.0)]
    assert choose_by_mean_logprob(samples) == 1
    assert choose_by_vote(lambda text: text.strip(".") or None)(samples) == 0
    assert choose_shortest_valid(lambda text: len(text) > 1)(samples) == 2
    assert choose_by_score(len)(samples) == 1


def test_best_of_and_first_valid(module: LanguageModel, tokenizer: Tokenizer) -> None:
    """Guards against n answers that are one, and against a race that leaves the losers running."""
    engine = Engine(module, tokenizer)
    params = SamplingParams(max_tokens=6, temperature=1.5, seed=2, ignore_eos=True)
    best = best_of(engine, Request([1, 2, 3], params), 5, choose_by_score(len))
    assert len(best.samples) == 5 and len(best.chosen.text) == max(len(one.text) for one in best.samples)
    found = first_valid(engine, [1, 2, 3], params, 5, lambda text: True)
    assert found is not None and engine.scheduler.idle
    assert first_valid(engine, [1, 2, 3], params, 3, lambda text: False) is None
    with pytest.raises(FoundlingError, match="temperature 0"):
        best_of(engine, Request([1]), 2, choose_by_mean_logprob)


def test_beam_search_finds_the_best_of_all(module: LanguageModel) -> None:
    """Guards against a beam that loses totals or mixes up prefixes: full width must equal exhaustive search."""
    engine = Engine(module, None)
    with torch.no_grad():
        first = module(torch.tensor([[1, 2]]))[0, -1].log_softmax(-1)
        pairs = torch.tensor([[1, 2, token] for token in range(259)])
        second = module(pairs)[:, -1].log_softmax(-1)
    totals = first[:, None] + second
    found = beam_search(engine, [1, 2], width=130, max_tokens=2)
    best = divmod(int(totals.argmax()), 259)
    assert tuple(found[0].tokens) == best
    assert sum(found[0].logprobs) == pytest.approx(float(totals.max()), abs=1e-4)


def test_coverage_is_unbiased() -> None:
    """Guards against the biased 1 - (1 - p)^N: compare with all subsets."""
    row = [True, False, False, True, False, False]
    for n in (1, 2, 3, 6):
        subsets = list(itertools.combinations(row, n))
        assert coverage([row], [n])[0] == pytest.approx(sum(map(any, subsets)) / len(subsets))


def test_a_fooled_verifier_gets_worse_with_more_samples() -> None:
    """Guards against a selection curve that cannot fall: the best-scored sample is a wrong one."""
    correct = [[True] * 9 + [False]]
    scores = [[0.0] * 9 + [1.0]]
    assert selection(correct, scores, [1, 5, 10]) == pytest.approx([0.9, 0.5, 0.0])
    assert coverage(correct, [1, 5]) == pytest.approx([0.9, 1.0])


def test_selection_is_the_mean_over_all_subsets() -> None:
    """Guards the probability of each rank, and equal scores, against counting every subset."""
    correct, scores = [True, False, False, True, True], [2.0, 2.0, 1.0, 3.0, 1.0]
    for n in range(1, 6):
        means = []
        for subset in itertools.combinations(range(5), n):
            best = [i for i in subset if scores[i] == max(scores[j] for j in subset)]
            means.append(sum(correct[i] for i in best) / len(best))
        assert selection([correct], [scores], [n]) == pytest.approx([sum(means) / len(means)])


def test_explain_shows_each_step() -> None:
    """T=1 gives [0.27, 0.73] for logits [1, 2], T=0.5 gives [0.12, 0.88]; and the filters count what they keep."""
    steps = explain(torch.tensor([1.0, 2.0]), SamplingParams(temperature=0.5, top_k=1))
    assert [step.name for step in steps] == ["model", "temperature 0.5", "top_k 1"]
    assert steps[0].probabilities.tolist() == pytest.approx([0.27, 0.73], abs=0.005)
    assert steps[1].probabilities.tolist() == pytest.approx([0.12, 0.88], abs=0.005)
    assert steps[2].kept == 1
    greedy = explain(torch.tensor([1.0, 2.0]), SamplingParams(temperature=0.0))[-1]
    assert greedy.probabilities.tolist() == [0.0, 1.0]


@pytest.mark.parametrize(
    ("text", "value", "repair"),
    [
        ('{"a": 1}', {"a": 1}, None),
        ('Sure!\n```json\n{"a": [1, 2,],}\n```\nHope it helps', {"a": [1, 2]}, "trailing comma removed"),
        ("{'a': 'it\\'s', b: True}", {"a": "it's", "b": True}, "single quotes replaced"),
        ('The answer is {"a": {"b": "x', {"a": {"b": "x"}}, "closed where it was cut"),
        ('[1, 2} and so on', [1, 2], "brackets matched"),
        ('{"a": "line\nbreak", "n": 1e5}', {"a": "line\nbreak", "n": 1e5}, "control characters escaped"),
    ],
)  # fmt: skip
def test_json_is_repaired_and_said_so(text: str, value: object, repair: str | None) -> None:
    """Guards against a repair that is silent, or that changes what was already valid."""
    found = repair_json(text)
    assert found.ok and found.value == value
    assert found.repairs == () if repair is None else repair in found.repairs


def test_what_cannot_be_repaired_is_not() -> None:
    """Guards against inventing a value."""
    assert not repair_json("I do not know").ok
    assert not repair_yaml("just words").ok
    assert repair_yaml("```yaml\na:\n\t- 1\n```").value == {"a": [1]}
