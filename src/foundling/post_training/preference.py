"""Preference losses: one short function each, on log-probabilities of whole answers.

Notation: π is the model, π₀ the frozen reference it started from, y_w and y_l the chosen and the rejected answer to x,
Δ = log π(y_w|x)/π₀(y_w|x) − log π(y_l|x)/π₀(y_l|x), σ the logistic function. All take and return tensors (pairs,).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class PairLogprobs:
    """Summed log-probabilities of the answers of some pairs, in nats, and their lengths in tokens; (pairs,) each.

    The reference's may be zeros for losses that have none (SimPO, ORPO).
    """

    chosen: Tensor
    rejected: Tensor
    reference_chosen: Tensor
    reference_rejected: Tensor
    chosen_tokens: Tensor
    rejected_tokens: Tensor

    @property
    def chosen_ratio(self) -> Tensor:
        """log π(y_w|x)/π₀(y_w|x)."""
        return self.chosen - self.reference_chosen

    @property
    def rejected_ratio(self) -> Tensor:
        """log π(y_l|x)/π₀(y_l|x)."""
        return self.rejected - self.reference_rejected


def dpo(pairs: PairLogprobs, beta: float) -> Tensor:
    """−log σ(βΔ). Rafailov et al. 2023, "Direct preference optimization", arXiv:2305.18290, eq. 7."""
    return -F.logsigmoid(beta * (pairs.chosen_ratio - pairs.rejected_ratio))


def conservative_dpo(pairs: PairLogprobs, beta: float, flipped: float) -> Tensor:
    """−(1−ε) log σ(βΔ) − ε log σ(−βΔ), for labels of which a share ε is wrong (cDPO).

    Mitchell 2023, "A note on DPO with noisy preferences and relationship to IPO", eq. 3.
    """
    margin = beta * (pairs.chosen_ratio - pairs.rejected_ratio)
    return -(1 - flipped) * F.logsigmoid(margin) - flipped * F.logsigmoid(-margin)


def robust_dpo(pairs: PairLogprobs, beta: float, flipped: float) -> Tensor:
    """(−(1−ε) log σ(βΔ) + ε log σ(−βΔ)) / (1−2ε): unbiased under a share ε of flipped labels.

    Chowdhury et al. 2024, "Provably robust DPO", arXiv:2403.00409, eq. 12.
    """
    margin = beta * (pairs.chosen_ratio - pairs.rejected_ratio)
    return (-(1 - flipped) * F.logsigmoid(margin) + flipped * F.logsigmoid(-margin)) / (1 - 2 * flipped)


def ipo(pairs: PairLogprobs, beta: float) -> Tensor:
    """(Δ' − 1/(2β))², where Δ' takes each log-ratio per token, as the authors' own results do.

    Azar et al. 2023, "A general theoretical paradigm to understand learning from human preferences", arXiv:2310.12036,
    eq. 17.
    """
    margin = pairs.chosen_ratio / pairs.chosen_tokens - pairs.rejected_ratio / pairs.rejected_tokens
    return (margin - 1 / (2 * beta)) ** 2


def hinge(pairs: PairLogprobs, beta: float) -> Tensor:
    """max(0, 1 − βΔ). Zhao et al. 2023, "SLiC-HF", arXiv:2305.10425, on log-ratios."""
    return torch.relu(1 - beta * (pairs.chosen_ratio - pairs.rejected_ratio))


def simpo(pairs: PairLogprobs, beta: float, gamma: float) -> Tensor:
    """−log σ(β/|y_w| log π(y_w|x) − β/|y_l| log π(y_l|x) − γ). Meng et al. 2024, "SimPO", arXiv:2405.14734, eq. 6."""
    margin = pairs.chosen / pairs.chosen_tokens - pairs.rejected / pairs.rejected_tokens
    return -F.logsigmoid(beta * margin - gamma)


def odds_ratio(pairs: PairLogprobs, beta: float) -> Tensor:
    """−β log σ(log odds(y_w|x) − log odds(y_l|x)), odds(y|x) = p/(1−p) with p the geometric mean probability.

    ORPO adds it to the cross entropy of the chosen answer. Hong et al. 2024, "ORPO", arXiv:2403.07691, eqs. 4, 6, 7.
    """
    chosen, rejected = pairs.chosen / pairs.chosen_tokens, pairs.rejected / pairs.rejected_tokens
    log_odds = (chosen - rejected) - (log1mexp(chosen) - log1mexp(rejected))
    return -beta * F.logsigmoid(log_odds)


def kto(ratio: Tensor, desirable: Tensor, kl: Tensor, beta: float, weights: tuple[float, float]) -> Tensor:
    """λ_D (1 − σ(β(r − z))) for a desirable answer, λ_U (1 − σ(β(z − r))) for another; r = log π(y|x)/π₀(y|x).

    Ethayarajh et al. 2024, "KTO", arXiv:2402.01306, eq. 8.

    Args:
        ratio: (answers,) r.
        desirable: (answers,) bool.
        kl: scalar z, an estimate of KL(π‖π₀), at least 0 and constant to the gradient.
        weights: λ_D and λ_U.
    """
    sign = torch.where(desirable, 1.0, -1.0)
    weight = torch.where(desirable, weights[0], weights[1])
    return weight * (1 - torch.sigmoid(sign * beta * (ratio - kl)))


def bradley_terry(chosen: Tensor, rejected: Tensor, margin: Tensor | float = 0.0) -> Tensor:
    """−log σ(r_w − r_l − m), for rewards (pairs,) and a margin m by how much better the chosen answer is.

    Bradley & Terry 1952; the margin is Touvron et al. 2023, "Llama 2", arXiv:2307.09288, eq. 2.
    """
    return -F.logsigmoid(chosen - rejected - margin)


def pointwise(chosen: Tensor, rejected: Tensor) -> Tensor:
    """−log σ(r_w) − log σ(−r_l): each answer judged good or bad by itself, as KTO's or a thumb's labels are."""
    return -F.logsigmoid(chosen) - F.logsigmoid(-rejected)


def log1mexp(x: Tensor) -> Tensor:
    """log(1 − eˣ) for x < 0 without loss of digits (Mächler 2012, "Accurately computing log(1 − exp(−|a|))")."""
    near_zero = x > -0.6931471805599453  # −log 2: where either form is as good as the other
    small = torch.where(near_zero, x, -1.0)
    large = torch.where(near_zero, -1.0, x)
    return torch.where(near_zero, torch.log(-torch.expm1(small)), torch.log1p(-torch.exp(large)))
