"""LSTM and GRU as mixers: a recurrent layer over each document, projected back to the model's width."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from foundling.models.context import Context
from foundling.models.layers import recurrent_gru
from foundling.models.layers.recurrent_config import RecurrentConfig
from foundling.models.layers.recurrent_context import State, new_slots, read_slots, repack, resets, unpack, write_slots


class LSTM(nn.LSTM):
    """torch's LSTM, which starts remembering: forget gate biases at 1 (Jozefowicz et al. 2015)."""

    def init_weights(self, generator: torch.Generator) -> None:
        """Orthogonal recurrence, fan-in scaled input, biases zero but for the forget gate."""
        init_recurrent(self, generator)
        with torch.no_grad():
            for name, part in self.named_parameters(recurse=False):
                if name.startswith("bias_ih"):
                    part[self.hidden_size : 2 * self.hidden_size] = 1.0


class GRU(nn.GRU):
    """torch's GRU."""

    def init_weights(self, generator: torch.Generator) -> None:
        """Orthogonal recurrence, fan-in scaled input, biases zero."""
        init_recurrent(self, generator)


CELLS: dict[str, type[LSTM] | type[GRU]] = {"lstm": LSTM, "gru": GRU}


def init_recurrent(layer: nn.RNNBase, generator: torch.Generator) -> None:
    """Orthogonal matrices for each gate's recurrence (Saxe et al. 2013), normal 1/sqrt(fan_in) for the input's."""
    for name, part in layer.named_parameters(recurse=False):
        if name.startswith("bias"):
            nn.init.zeros_(part)
        elif name.startswith("weight_hh"):
            for gate in part.data.split(layer.hidden_size):
                nn.init.orthogonal_(gate, generator=generator)
        else:
            nn.init.normal_(part, std=part.shape[1] ** -0.5, generator=generator)


class Recurrent(nn.Module):
    """out_proj(LSTM(x)) or out_proj(GRU(x)), with one state per sequence."""

    def __init__(self, config: RecurrentConfig, dim: int) -> None:
        super().__init__()
        self.config = config
        self.cell = CELLS[config.cell](dim, config.hidden, batch_first=True)
        self.out_proj = nn.Linear(config.hidden, dim, bias=False)

    def forward(self, x: Tensor, ctx: Context, state: State | None = None) -> Tensor:
        """x (rows, time, dim) -> (rows, time, dim)."""
        if state is None and isinstance(self.cell, GRU) and recurrent_gru.suits(self.cell, x):
            return self.out_proj(recurrent_gru.run(self.cell, x, resets(ctx)))
        packed = unpack(x, ctx)
        if packed is not None:
            documents, where = packed
            return self.out_proj(repack(self.cell(documents)[0], where))
        if state is None:
            return self.out_proj(self.cell(x)[0])
        before = read_slots(state, ctx)
        assert before is not None
        y, last = self._resume(x, ctx, tuple(part.to(x.dtype)[None] for part in before))
        write_slots(state, ctx, tuple(part[0] for part in last))
        return self.out_proj(y)

    def _resume(self, x: Tensor, ctx: Context, before: State) -> tuple[Tensor, State]:
        """Go on from `before`, each row over its own number of new tokens; states (1, rows, hidden)."""
        assert ctx.cache is not None
        hidden = before if self.config.cell == "lstm" else before[0]
        lengths = ctx.cache.new_lengths
        if bool((lengths == x.shape[1]).all()):
            y, last = self.cell(x, hidden)
        else:
            counts = lengths.clamp(min=1).cpu()
            rows = pack_padded_sequence(x, counts, batch_first=True, enforce_sorted=False)
            packed, last = self.cell(rows, hidden)
            y, _ = pad_packed_sequence(packed, batch_first=True, total_length=x.shape[1])
        idle = (lengths == 0)[:, None]
        after = last if self.config.cell == "lstm" else (last,)
        return y, tuple(torch.where(idle, old, new) for old, new in zip(before, after, strict=True))

    def new_state(
        self, slots: int, blocks: int, block_size: int, dtype: torch.dtype, device: torch.device | str
    ) -> State:
        """Hidden state (and cell state of an LSTM), each (slots, hidden)."""
        return new_slots(slots, [(self.config.hidden,)] * (2 if self.config.cell == "lstm" else 1), dtype, device)
