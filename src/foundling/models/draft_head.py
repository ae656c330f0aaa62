"""A small recurrent cell that guesses a model's next tokens from its hidden state, for speculative decoding.

After Medusa (Cai et al. 2024, arXiv:2401.10774), whose heads see the hidden state alone, in the sequentially dependent
form of Hydra (Ankner et al. 2024, arXiv:2402.05109) and of the recurrent drafter (Zhang et al. 2024, arXiv:2403.09919):
each guess also sees the tokens guessed before it, one cell serves all of them, and the model's own head reads it.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from foundling.models.locate import DRAFT_HEAD


class DraftHead(nn.Module):
    """state' = state + down(silu(up([state, embedding of the token])), both inputs normalised.

    Args:
        dim: width of the model.
        most: tokens that it was trained to guess.
    """

    def __init__(self, dim: int, most: int) -> None:
        super().__init__()
        self.most = most
        self.up = nn.Linear(2 * dim, 2 * dim, bias=False)
        self.down = nn.Linear(2 * dim, dim, bias=False)
        nn.init.normal_(self.up.weight, std=(2 * dim) ** -0.5)
        nn.init.zeros_(self.down.weight)

    def forward(self, state: Tensor, embedded: Tensor) -> Tensor:
        """state, embedded (..., dim) -> what the model's head reads to guess the token after next (..., dim)."""
        width = state.shape[-1:]
        both = torch.cat([F.rms_norm(state, width), F.rms_norm(embedded, width)], -1)
        moved: Tensor = self.down(F.silu(self.up(both.to(self.up.weight.dtype))))
        return state + moved.to(state.dtype)

    def save(self, directory: Path) -> None:
        """Write it beside a model."""
        weights = {name: p.detach().cpu().contiguous() for name, p in self.named_parameters()}
        save_file(weights, directory / DRAFT_HEAD, metadata={"most": str(self.most)})


def load_draft_head(directory: Path) -> DraftHead | None:
    """The draft head beside a model, or None."""
    path = directory / DRAFT_HEAD
    if not path.is_file():
        return None
    with safe_open(path, framework="pt") as file:
        head = DraftHead(file.get_slice("down.weight").get_shape()[0], int(file.metadata()["most"]))
        head.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118  no mapping
    return head.requires_grad_(False).eval()
