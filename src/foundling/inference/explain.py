"""What sampling does to one distribution, step by step: the table behind `foundling sample-explain`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from foundling.inference import sampling
from foundling.inference.parameters import SamplingParams
from foundling.inference.penalties import edit


@dataclass(frozen=True)
class Step:
    """The distribution after one step.

    Args:
        name: what was done, with its value.
        probabilities: (vocab,) after it.
        kept: tokens that are still possible.
    """

    name: str
    probabilities: Tensor
    kept: int


def explain(
    logits: Tensor,
    params: SamplingParams,
    prompt: Sequence[int] = (),
    answer: Sequence[int] = (),
    bad_words: Sequence[Sequence[int]] = (),
    stop_ids: Sequence[int] = (),
) -> list[Step]:
    """The distribution over the next token as the model gives it and after each step that `params` asks for.

    The steps are the engine's own functions in the engine's own order.

    Args:
        logits: (vocab,) of the model.
        prompt, answer, bad_words, stop_ids: what penalties and bans look at.
    """
    scores = logits.float()[None]
    steps = [_step("model", scores)]
    if params.edits_logits:
        scores = edit(scores[0], params, prompt, answer, bad_words, stop_ids)[None]
        steps.append(_step("biases, penalties and bans", scores))
    if params.temperature == 0:
        greedy = torch.full_like(scores, -torch.inf)
        greedy[0, scores.argmax()] = 0.0
        return [*steps, _step("temperature 0: the most probable token", greedy)]
    if params.temperature != 1:
        scores = scores / params.temperature
        steps.append(_step(f"temperature {params.temperature:g}", scores))
    filters = (
        ("top_k", params.top_k, 0, sampling.top_k, torch.int64),
        ("top_p", params.top_p, 1, sampling.top_p, torch.float32),
        ("min_p", params.min_p, 0, sampling.min_p, torch.float32),
        ("typical_p", params.typical_p, 1, sampling.typical_p, torch.float32),
    )
    for name, value, off, step, dtype in filters:
        if value != off:
            scores = step(scores, torch.tensor([value], dtype=dtype))
            steps.append(_step(f"{name} {value:g}", scores))
    return steps


def _step(name: str, scores: Tensor) -> Step:
    probabilities = scores[0].softmax(-1)
    return Step(name, probabilities, int((scores[0] > -torch.inf).sum()))
