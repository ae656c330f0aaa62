"""Cross entropy over a large vocabulary without ever holding all the logits.

The head is applied to a few hundred positions at a time, and the gradient of each chunk is taken at once, while its
logits are still in the cache: the memory is that of one chunk, and the backward pass of the head costs nothing more.
The idea is that of Liger's fused linear cross entropy (Hsu et al. 2024, arXiv:2410.10989) for any head.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from foundling.models.context import Context
from foundling.models.kernels import fused
from foundling.models.routing import auxiliary_loss, statistics
from foundling.training.batch import Batch
from foundling.training.objective import LossSum

CHUNK_LOGITS = 1 << 21  # logits in one chunk: 8 MB in fp32, near the size of a cache
LEAST_CHUNK = 256  # positions: with fewer, reading a large head's weights costs more than multiplying by them
# How many positions are scored changes from step to step. Rounded up, with positions of weight 0: a CPU's library
# compiles its products anew for every shape and keeps up to a thousand of them, which took 15 MB more at every step.
SAME_SHAPE = 128


def next_token_loss(model: Any, batch: Batch, *, z_loss: float = 0.0) -> LossSum:
    """Summed cross entropy of a batch's targets, in nats, weighted by its loss mask; the count is the mask's sum.

    `batch.extra["prefix"]` (rows,), where there is one, says how many leading tokens see each other both ways.
    """
    ctx = Context.full(batch.tokens.shape[0], batch.tokens.shape[1], batch.tokens.device)
    if batch.segments is not None:
        ctx = Context.packed(batch.segments)
    ctx.prefix = batch.extra.get("prefix")
    hidden = model.hidden(batch.tokens, ctx)  # (rows, time, dim)
    total, count = cross_entropy_sum(hidden, model, batch.targets, batch.loss_mask, z_loss=z_loss), batch.scored()
    routed = auxiliary_loss(ctx)  # a mean; the loop divides by the count
    if routed is not None:
        total = total + routed * count
    return LossSum(total, count, {f"router_{name}": (value, 1) for name, value in statistics(ctx).items()})


def cross_entropy_sum(
    hidden: Tensor, model: Any, targets: Tensor, weights: Tensor, *, z_loss: float = 0.0, chunk: int = 0
) -> Tensor:
    """Σ weight · (−log p(target) + z_loss · log²Z): float32 scalar, differentiable in the hidden states and the head.

    Args:
        hidden: (..., dim).
        model: has `head(hidden) -> logits (..., vocab)` and `head_parameters() -> list of tensors it depends on`.
        targets, weights: (...); positions of weight 0 cost nothing: the head is not applied to them.
        chunk: positions at a time; 0: see `chunk_size`.
    """
    hidden, targets = hidden.flatten(0, -2), targets.flatten()
    weights = weights.flatten().float()
    if not bool(weights.all()):
        scored = weights.nonzero().squeeze(1)
        if not len(scored):
            return hidden.sum().float() * 0.0
        spare = -len(scored) % SAME_SHAPE
        scored = torch.cat((scored, scored[-1:].expand(spare)))
        hidden, targets, weights = hidden[scored], targets[scored], weights[scored]
        weights[len(weights) - spare :] = 0.0
    parameters = head_parameters(model)
    size = chunk or chunk_size(len(parameters[0]))
    if not torch.is_grad_enabled():
        with torch.no_grad():
            parts = zip(hidden.split(size), targets.split(size), weights.split(size), strict=True)
            return torch.stack([_loss(model.head(h), t, w, z_loss) for h, t, w in parts]).sum()

    def of_chunk(logits: Tensor, part: slice) -> tuple[Tensor, Tensor]:
        return _loss_and_gradient(logits, targets[part], weights[part], z_loss)

    total: Tensor = _ChunkedLoss.apply(hidden, model.head, size, of_chunk, *parameters)
    return total


def chunked_loss(hidden: Tensor, model: Any, loss: Callable[[Tensor, slice], Tensor]) -> Tensor:
    """Σ over chunks of `loss(logits (n, vocab), slice)`, float32: differentiable in the hidden states and the head.

    Args:
        hidden: (positions, dim).
        loss: scalar of a chunk's logits and of which positions they are; may depend on nothing that is trained.
    """
    parameters = head_parameters(model)

    def of_chunk(logits: Tensor, part: slice) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            leaf = logits.requires_grad_()
            value = loss(leaf, part)
        return torch.autograd.grad(value, leaf)[0], value.detach().float()

    size = chunk_size(len(parameters[0]))
    total: Tensor = _ChunkedLoss.apply(hidden, model.head, size, of_chunk, *parameters)
    return total


def chunk_size(vocab: int) -> int:
    """Positions whose logits are held at once."""
    return max(LEAST_CHUNK, CHUNK_LOGITS // vocab // SAME_SHAPE * SAME_SHAPE)


def head_parameters(model: Any) -> list[Tensor]:
    """The tensors that a model's head depends on, the (vocab, dim) matrix first: the output or the tied embedding."""
    output = model.output if model.output is not None else model.embedding
    rest = [part for part in (model.transform, model.output_bias) if part is not None]
    bias = output.bias if isinstance(output, nn.Linear) else None
    own = [output.weight] if bias is None else [output.weight, bias]  # an embedding may hold more than its matrix
    return [*own, *(p for part in rest for p in part.parameters())]


def token_logprobs(hidden: Tensor, head: nn.Module | Callable[[Tensor], Tensor], targets: Tensor) -> Tensor:
    """log p(target) of each position, (..., dim) and (...) -> (...) float32, differentiable the ordinary way."""
    return -torch.nn.functional.cross_entropy(
        head(hidden.flatten(0, -2)).float(), targets.flatten(), reduction="none"
    ).view_as(targets)


def _loss(logits: Tensor, targets: Tensor, weights: Tensor, z_loss: float) -> Tensor:
    logits = logits.float()
    log_z = logits.logsumexp(-1)
    picked = logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    return (weights * (log_z - picked + z_loss * log_z**2)).sum()


class _ChunkedLoss(torch.autograd.Function):
    """Gradients are computed in the forward pass, chunk by chunk, and only scaled in the backward pass."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        hidden: Tensor,
        head: Callable[[Tensor], Tensor],
        size: int,
        of_chunk: Callable[[Tensor, slice], tuple[Tensor, Tensor]],  # logits -> their gradient, the loss
        *parameters: Tensor,
    ) -> Tensor:
        wanted = [p for p in parameters if p.requires_grad]
        sums = [torch.zeros_like(p, dtype=torch.float32) for p in wanted]
        grad_hidden = torch.empty_like(hidden)
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        for start in range(0, len(hidden), size):
            part = slice(start, start + size)
            with torch.enable_grad():
                leaf = hidden[part].detach().requires_grad_()
                logits = head(leaf)
            grad_logits, loss = of_chunk(logits.detach(), part)
            grads = torch.autograd.grad(logits, [leaf, *wanted], grad_logits)
            grad_hidden[part] = grads[0]
            for index, total_grad in enumerate(sums, 1):
                total_grad += grads[index]
            total += loss
            del leaf, logits, grad_logits, grads  # or the next chunk's would lie beside them
        ctx.save_for_backward(grad_hidden, *sums)
        ctx.wants = [p.requires_grad for p in parameters]
        ctx.dtypes = [p.dtype for p in parameters]
        return total

    @staticmethod
    def backward(ctx: Any, grad_total: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        grad_hidden, *sums = ctx.saved_tensors
        remaining = iter(sums)
        grads = [
            (next(remaining) * grad_total).to(dtype) if wanted else None
            for wanted, dtype in zip(ctx.wants, ctx.dtypes, strict=True)
        ]
        return grad_hidden * grad_total, None, None, None, *grads


def _loss_and_gradient(logits: Tensor, targets: Tensor, weights: Tensor, z_loss: float) -> tuple[Tensor, Tensor]:
    """d loss / d logits in the logits' dtype, and the summed loss."""
    if fused.suits(logits):
        loss, gradient = fused.cross_entropy(logits, targets, weights, z_loss)
        return gradient, loss
    probabilities, log_z = softmax_and_log_z(logits)
    at, column = targets.unsqueeze(-1), weights.unsqueeze(-1)
    logprob = logits.gather(-1, at).float() - log_z
    loss = (column * (z_loss * log_z**2 - logprob)).sum()
    if z_loss:
        probabilities.mul_(1 + 2 * z_loss * log_z)
    probabilities.scatter_add_(-1, at, torch.full_like(log_z, -1.0))
    return probabilities.mul_(column).to(logits.dtype), loss


def softmax_and_log_z(logits: Tensor) -> tuple[Tensor, Tensor]:
    """softmax(logits) and log Σ exp(logits), float32: (n, vocab) -> (n, vocab) and (n, 1).

    Both are taken from one fused softmax, which is several times faster on a CPU than exp: the largest probability is
    exp(largest logit - log Z), and never underflows.
    """
    probabilities = torch.softmax(logits, -1, dtype=torch.float32)
    return probabilities, logits.amax(-1, keepdim=True).float() - probabilities.amax(-1, keepdim=True).log()
