"""Test-time compute: several answers, one choice. All samples of a prompt share its cache.

Each `choose_*` takes completions of one prompt and returns the index of the best, so that they can be compared on the
same samples. `coverage` and `selection` say how much N samples could give and how much a choice makes of it.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from foundling.core.errors import FoundlingError
from foundling.inference.engine import Engine
from foundling.inference.parameters import SamplingParams
from foundling.inference.remote import RemoteEngine, RemoteRequest
from foundling.inference.requests import Completion, Request

Score = Callable[[str], float]  # an answer's text -> how good it is: a reward model, a verifier
Extract = Callable[[str], str | None]  # an answer's text -> what is voted on; None: no answer found


@dataclass(frozen=True)
class Best:
    """The chosen answer and what it was chosen from."""

    chosen: Completion
    index: int
    samples: list[Completion]


def best_of(
    engine: Engine | RemoteEngine,
    request: Request | RemoteRequest,
    n: int,
    choose: Callable[[Sequence[Completion]], int],
) -> Best:
    """Draw n answers to a request and choose one.

    Raises:
        FoundlingError: n is 0, the answers would all be the same (temperature 0), or none could be generated.
    """
    if n > 1 and request.params.temperature == 0:
        raise FoundlingError(
            f"best of {n} at temperature 0", "all answers would be the same", "set temperature above 0"
        )
    asked: Any = replace(request, params=replace(request.params, n=n))
    samples = engine.generate([asked])
    usable = [sample for sample in samples if not sample.failed]
    if not usable:
        raise FoundlingError(samples[0].message or samples[0].finish_reason)
    index = choose(usable)
    return Best(usable[index], index, samples)


def choose_by_mean_logprob(samples: Sequence[Completion]) -> int:
    """The answer that the model itself finds most probable, per token."""
    return max(range(len(samples)), key=lambda i: float(np.mean(samples[i].logprobs or [-np.inf])))


def choose_by_score(score: Score) -> Callable[[Sequence[Completion]], int]:
    """The answer with the highest score of a reward model or a verifier; the first of equals."""
    return lambda samples: max(range(len(samples)), key=lambda i: score(samples[i].text))


def choose_shortest_valid(valid: Callable[[str], bool]) -> Callable[[Sequence[Completion]], int]:
    """The shortest answer that is valid; if none is, the shortest."""
    return lambda samples: min(range(len(samples)), key=lambda i: (not valid(samples[i].text), len(samples[i].text)))


def choose_by_vote(extract: Extract) -> Callable[[Sequence[Completion]], int]:
    """Self-consistency (Wang et al. 2022, arXiv:2203.11171): the first answer that says what most answers say."""

    def choose(samples: Sequence[Completion]) -> int:
        answers = [extract(sample.text) for sample in samples]
        votes = Counter(answer for answer in answers if answer is not None)
        return answers.index(votes.most_common(1)[0][0]) if votes else 0

    return choose


def first_valid(
    engine: Engine, prompt_ids: Sequence[int], params: SamplingParams, n: int, valid: Callable[[str], bool]
) -> Best | None:
    """For latency: run n answers side by side, take the first one to end valid and cancel the rest; None if none is."""
    samples: list[Completion] = []
    request_id = engine.add(Request(prompt_ids, replace(params, n=n)))
    winner: Completion | None = None
    while len(samples) < n and winner is None:
        for event in engine.step():
            if event.request_id == request_id and event.completion is not None:
                samples.append(event.completion)
                if winner is None and not event.completion.failed and valid(event.completion.text):
                    winner = event.completion
    if winner is None:
        return None
    if len(samples) < n:
        engine.cancel(request_id)
        engine.step()
    return Best(winner, samples.index(winner), samples)


def beam_search(
    engine: Engine, prompt_ids: Sequence[int], width: int, max_tokens: int, length_penalty: float = 1.0
) -> list[Completion]:
    """The `width` continuations found with the highest log p / length^length_penalty, best first.

    As `transformers` does: each step keeps the 2 x width best extensions, ended ones go to the result, and the search
    ends when no running beam can beat the worst result. Every step reads the beams' past from the prefix cache.
    """
    if width < 1 or max_tokens < 1:
        raise FoundlingError(f"a beam of {width} over {max_tokens} tokens", "expected at least 1")
    stops = set(engine.tokenizer.stop_ids) if engine.tokenizer else set()
    step = SamplingParams(max_tokens=1, logprobs=2 * width, ignore_eos=True)
    running: list[tuple[float, list[int], list[float]]] = [(0.0, [], [])]
    done: list[tuple[float, list[int], list[float], str]] = []
    for length in range(1, max_tokens + 1):
        answers = engine.generate([Request([*prompt_ids, *tokens], step) for _, tokens, _ in running])
        extensions = [
            (total + logprob, [*tokens, token], [*logprobs, logprob])
            for (total, tokens, logprobs), answer in zip(running, answers, strict=True)
            for token, logprob in (answer.top_logprobs or [{}])[0].items()
        ]
        best = heapq.nlargest(2 * width, extensions, key=lambda extension: extension[0])
        ended = [extension for extension in best[:width] if extension[1][-1] in stops]
        done += [(total / length**length_penalty, tokens, logprobs, "stop") for total, tokens, logprobs in ended]
        running = [extension for extension in best if extension[1][-1] not in stops][:width]
        done = heapq.nlargest(width, done, key=lambda result: result[0])
        if not running or (len(done) == width and running[0][0] / length**length_penalty <= done[-1][0]):
            break
    done += [(total / len(t) ** length_penalty, t, lp, "length") for total, t, lp in running]
    return [
        Completion(_text(engine, tokens, stops), tokens, logprobs, reason, prompt_tokens=len(prompt_ids))
        for _, tokens, logprobs, reason in heapq.nlargest(width, done, key=lambda result: result[0])
    ]


def coverage(correct: Sequence[Sequence[bool]], sizes: Sequence[int]) -> list[float]:
    """The chance that at least one of N samples is right (pass@N, unbiased: Chen et al. 2021, arXiv:2107.03374).

    Args:
        correct: per prompt, whether each sample is right.
        sizes: the values of N, each at most the number of samples.
    """
    return [float(np.mean([_pass_at(len(row), sum(row), n) for row in correct])) for n in sizes]


def selection(
    correct: Sequence[Sequence[bool]], scores: Sequence[Sequence[float]], sizes: Sequence[int]
) -> list[float]:
    """How often the best-scored of N samples is right: the mean over prompts, exact over all subsets of size N.

    Where the scorer can be fooled this falls again as N grows, although coverage rises. Of S samples the best of a
    random N is the one of rank r (from 0) with probability C(S - 1 - r, N - 1) / C(S, N); equal scores share theirs.
    """
    ranked = [_right_by_rank(row, its_scores) for row, its_scores in zip(correct, scores, strict=True)]
    return [float(np.mean([_rank_chances(len(right), n) @ right for right in ranked])) for n in sizes]


def _right_by_rank(correct: Sequence[bool], scores: Sequence[float]) -> npt.NDArray[np.float64]:
    """Whether the sample of each rank is right, the best score first; equal scores have their mean."""
    _, group, counts = np.unique(-np.asarray(scores, dtype=np.float64), return_inverse=True, return_counts=True)
    means = np.bincount(group, weights=np.asarray(correct, dtype=np.float64)) / counts
    return np.repeat(means, counts)


def _rank_chances(samples: int, n: int) -> npt.NDArray[np.float64]:
    assert 1 <= n <= samples, f"the best of {n} needs {n} samples, there are {samples}"
    chances = np.zeros(samples)
    chance = n / samples
    for rank in range(samples - n + 1):
        chances[rank] = chance
        chance *= (samples - rank - n) / max(samples - rank - 1, 1)
    return chances


def _pass_at(samples: int, correct: int, n: int) -> float:
    assert n <= samples, f"pass@{n} needs {n} samples, there are {samples}"
    if samples - correct < n:
        return 1.0
    return 1.0 - float(np.prod(1.0 - n / np.arange(samples - correct + 1, samples + 1)))


def _text(engine: Engine, tokens: list[int], stops: set[int]) -> str:
    if engine.tokenizer is None:
        return ""
    return engine.tokenizer.decode(tokens[:-1] if tokens and tokens[-1] in stops else tokens)
