"""log-probabilities of given tokens, differentiable, without ever holding all logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from foundling.models.context import Context
from foundling.training.batch import Batch
from foundling.training.loss import chunk_size, head_parameters, softmax_and_log_z


def batch_logprobs(model: Any, batch: Batch, temperature: float = 1.0) -> Tensor:
    """log p(target) at the positions of a batch that its loss mask scores, elsewhere 0: (rows, time) float32.

    Args:
        temperature: of the distribution, where the tokens were sampled at another one than 1.
    """
    ctx = None if batch.segments is None else Context.packed(batch.segments)
    hidden = model.hidden(batch.tokens, ctx)  # (rows, time, dim)
    scored = batch.loss_mask.bool()
    found = chosen_logprobs(hidden[scored], batch.targets[scored], model, temperature)
    return torch.zeros(batch.tokens.shape, dtype=torch.float32, device=found.device).masked_scatter(scored, found)


def chosen_logprobs(hidden: Tensor, targets: Tensor, model: Any, temperature: float = 1.0, chunk: int = 0) -> Tensor:
    """log p(target) of each position, (n, dim) and (n,) -> (n,) float32.

    The head is applied to `chunk` positions at a time, and once more in the backward pass if it is trained: its logits
    are never kept.
    """
    parameters = head_parameters(model)
    size = chunk or chunk_size(len(parameters[0]))
    names = [next(name for name, p in model.named_parameters() if p is wanted) for wanted in parameters]
    found: Tensor = _ChosenLogprobs.apply(hidden, targets, _Head(model, names), temperature, size, *parameters)
    return found


def sums_by_segment(logprobs: Tensor, segments: Tensor, count: int) -> Tensor:
    """Sums over each sequence packed in a row: (rows, time) and its segment numbers -> (rows, count).

    Positions of segment -1 (padding) must hold zeros.
    """
    sums = logprobs.new_zeros(logprobs.shape[0], count)
    return sums.scatter_add(1, segments.clamp(min=0), logprobs)


class _Head(nn.Module):
    """A model's head on given parameters: the backward pass must use those of the forward pass, at its precision."""

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.model, self.names = model, [f"model.{name}" for name in names]

    def forward(self, hidden: Tensor) -> Tensor:
        """(n, dim) -> (n, vocab)."""
        logits: Tensor = self.model.head(hidden)  # type: ignore[operator]
        return logits

    def on(self, parameters: Sequence[Tensor], hidden: Tensor) -> Tensor:
        """The same, with these tensors in place of the model's own."""
        logits: Tensor = functional_call(self, dict(zip(self.names, parameters, strict=True)), (hidden,))
        return logits


class _ChosenLogprobs(torch.autograd.Function):
    """Where the head is frozen (an adapter), a position's gradient is the incoming number times what is known at once.

    It is then taken in the forward pass, while the logits are there; otherwise they are computed again.
    """

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        hidden: Tensor,
        targets: Tensor,
        head: _Head,
        temperature: float,
        size: int,
        *parameters: Tensor,
    ) -> Tensor:
        frozen = not any(p.requires_grad for p in parameters)
        at_once = frozen and ctx.needs_input_grad[0]
        grad_hidden = torch.empty_like(hidden) if at_once else None
        found = hidden.new_empty(len(targets), dtype=torch.float32)
        for start in range(0, len(targets), size):
            part = slice(start, start + size)
            with torch.set_grad_enabled(at_once):
                leaf = hidden[part].detach().requires_grad_(at_once)
                logits = head(leaf)
            slope, found[part] = _slope_and_logprob(logits.detach(), targets[part], temperature)
            if grad_hidden is not None:
                (grad_hidden[part],) = torch.autograd.grad(logits, [leaf], slope.to(logits.dtype))
        ctx.save_for_backward(*([grad_hidden] if at_once else [hidden, targets, *parameters]))
        ctx.at_once, ctx.head, ctx.temperature, ctx.size = at_once, head, temperature, size
        ctx.n_parameters = len(parameters)
        return found

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        if ctx.at_once:
            (grad_hidden,) = ctx.saved_tensors
            scaled = grad_hidden * grad[:, None].to(grad_hidden.dtype)
            return scaled, *[None] * (4 + ctx.n_parameters)
        hidden, targets, *parameters = ctx.saved_tensors
        wanted = [p for p in parameters if p.requires_grad]
        sums = [torch.zeros_like(p, dtype=torch.float32) for p in wanted]
        grad_hidden = torch.empty_like(hidden)
        for start in range(0, len(targets), ctx.size):
            part = slice(start, start + ctx.size)
            with torch.enable_grad():
                leaf = hidden[part].detach().requires_grad_()
                logits = ctx.head.on(parameters, leaf)
            slope, _ = _slope_and_logprob(logits.detach(), targets[part], ctx.temperature)
            slope *= grad[part, None]
            grad_hidden[part], *grads = torch.autograd.grad(logits, [leaf, *wanted], slope.to(logits.dtype))
            for total, one in zip(sums, grads, strict=True):
                total += one
        remaining = iter(sums)
        grads_out = [next(remaining).to(p.dtype) if p.requires_grad else None for p in parameters]
        return grad_hidden, None, None, None, None, *grads_out


def _slope_and_logprob(logits: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """d log p(t) / d logits = (one-hot(t) − softmax(logits / temperature)) / temperature, and log p(t); float32."""
    if temperature != 1:
        logits = logits.float() / temperature
    probabilities, log_z = softmax_and_log_z(logits)
    at = targets[:, None]
    logprob = (logits.gather(-1, at).float() - log_z)[:, 0]
    slope = probabilities.neg_().scatter_add_(-1, at, torch.ones_like(log_z))
    return slope if temperature == 1 else slope.div_(temperature), logprob
