"""How fast a model trains and decodes, and what its state weighs, as the context grows."""

from __future__ import annotations

import statistics
import time

import torch

from foundling.models.context import CacheView, Context
from foundling.models.cost import state_bytes
from foundling.models.language_model import LanguageModel
from foundling.training.objective import Objective
from foundling.training.precision import LossAt

BLOCK = 16
STEPS = 12
STATE_VALUE_BYTES = 4  # measured, and so counted, in float32


def training(module: LanguageModel, objective: Objective) -> float:
    """Tokens/s of forward and backward passes, as training runs them, without the optimizer."""
    device = next(module.parameters()).device
    batch = objective.batch(0).to(device)
    loss = LossAt(module.train(), objective, "bf16")
    times = []
    for _ in range(STEPS // 2 + 2):
        began = time.perf_counter()
        loss.compute(batch).total.backward()  # type: ignore[no-untyped-call]
        settle(device)
        times.append(time.perf_counter() - began)
        module.zero_grad(set_to_none=True)
    return batch.tokens.numel() / statistics.median(times[2:])


@torch.no_grad()
def decoding(module: LanguageModel, contexts: tuple[int, ...], rows: int) -> list[dict[str, float]]:
    """For each context length: tokens/s of steps of one token a row, and the state's bytes for one sequence.

    Every model runs the same plain PyTorch path. The cached numbers do not change the time, so the cache is not filled
    by a prompt first.
    """
    return [
        {
            "context": context,
            "tokens_per_s": rows / _step_seconds(module, context, rows),
            "state_bytes": state_bytes(module.config, context, STATE_VALUE_BYTES),
        }
        for context in contexts
    ]


def _step_seconds(module: LanguageModel, context: int, rows: int) -> float:
    device = module.eval().embedding.weight.device
    with device:
        return _step_seconds_on(device, module, context, rows)


def _step_seconds_on(device: torch.device, module: LanguageModel, context: int, rows: int) -> float:
    per_row = -(-(context + 1) // BLOCK)
    state = module.new_state(rows + 1, 1 + rows * per_row, BLOCK, torch.float32, device)
    table = 1 + torch.arange(rows * per_row).view(rows, per_row)
    lengths = torch.full((rows,), context)
    place = table[:, context // BLOCK] * BLOCK + context % BLOCK
    view = CacheView(place[:, None], table, lengths, torch.ones_like(lengths), 1 + torch.arange(rows))
    tokens = torch.zeros(rows, 1, dtype=torch.int64)
    times = []
    for _ in range(STEPS + 2):
        began = time.perf_counter()
        module(tokens, Context(lengths[:, None], cache=view), state)
        settle(device)
        times.append(time.perf_counter() - began)
    return statistics.median(times[2:])


def settle(device: torch.device) -> None:
    """Wait until a GPU has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
