"""How far a student's predictions are from a teacher's: sums over positions, differentiable in the student."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def divergence(student: Tensor, teacher: Tensor, kind: str, js_weight: float = 0.5, temperature: float = 1.0) -> Tensor:
    """(positions,) divergence in nats of logits (positions, vocab), times temperature².

    forward: KL(p || q); reverse: KL(q || p); js: β KL(p || m) + (1-β) KL(q || m) with m = β p + (1-β) q, where p is the
    teacher's distribution and q the student's (Agarwal et al. 2023, GKD, arXiv:2306.13649, eq. 2). The factor keeps
    the gradient's size at any temperature (Hinton et al. 2015, arXiv:1503.02531, §2).
    """
    q = torch.log_softmax(student.float() / temperature, -1)
    p = torch.log_softmax(teacher.float() / temperature, -1)
    return between(p, q, kind, js_weight) * temperature**2


def between(p: Tensor, q: Tensor, kind: str, js_weight: float = 0.5) -> Tensor:
    """The divergence of log-probabilities (positions, outcomes)."""
    if kind == "forward":
        return _kl(p, q)
    if kind == "reverse":
        return _kl(q, p)
    mixture = torch.logaddexp(p + math.log(js_weight), q + math.log(1 - js_weight))
    return js_weight * _kl(p, mixture) + (1 - js_weight) * _kl(q, mixture)


def bucketed(student: Tensor, ids: Tensor, logprobs: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities (positions, k + 1) of teacher and student over the teacher's k best tokens and all the rest.

    Args:
        student: (positions, vocab) logits.
        ids, logprobs: (positions, k) the teacher's.
    """
    q = torch.log_softmax(student.float(), -1).gather(-1, ids)
    return _with_rest(logprobs.float()), _with_rest(q)


def _with_rest(logprobs: Tensor) -> Tensor:
    rest = (1 - logprobs.exp().sum(-1, keepdim=True)).clamp_min(1e-6)
    return torch.cat((logprobs, rest.log()), dim=-1)


def _kl(p: Tensor, q: Tensor) -> Tensor:
    return (p.exp() * (p - q)).sum(-1)
