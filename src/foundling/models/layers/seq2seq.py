"""Recurrent sequence-to-sequence: a fixed vector between encoder and decoder, or attention over the source.

- none: Sutskever et al. 2014, arXiv:1409.3215. The decoder knows the source only through its initial state.
- additive: Bahdanau et al. 2014, arXiv:1409.0473. The state before the token attends, the context goes to the cell:
  e_s = v . tanh(W h_(t-1) + U source_s), which makes the decoder sequential by design.
- dot: Luong et al. 2015, arXiv:1508.04025 (global, general score). The state after the token attends, so a whole target
  is one pass over the cell: h~_t = tanh(W_c [context_t; h_t]).
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from foundling.models.layers.recurrent import CELLS, init_recurrent
from foundling.models.layers.seq2seq_config import Seq2SeqConfig


class Seq2Seq(nn.Module):
    """Logits of a target given a source, for training (`forward`) and for decoding (`greedy`)."""

    def __init__(self, config: Seq2SeqConfig) -> None:
        super().__init__()
        self.config = c = config
        self.embedding = nn.Embedding(c.vocab_size, c.dim)
        self.encoder = CELLS[c.cell](c.dim, c.hidden, batch_first=True, bidirectional=True)
        self.bridge = nn.Linear(2 * c.hidden, c.hidden)
        context = 2 * c.hidden if c.attention == "additive" else 0
        self.decoder = CELLS[c.cell](c.dim + context, c.hidden, batch_first=True)
        self.query = None if c.attention == "none" else nn.Linear(c.hidden, c.hidden, bias=False)
        self.key = None if c.attention == "none" else nn.Linear(2 * c.hidden, c.hidden, bias=False)
        self.score = nn.Linear(c.hidden, 1, bias=False) if c.attention == "additive" else None
        self.join = nn.Linear(c.hidden, c.hidden) if c.attention == "none" else nn.Linear(3 * c.hidden, c.hidden)
        self.output = nn.Linear(c.hidden, c.vocab_size, bias=False)

    def init_weights(self, generator: torch.Generator) -> None:
        """Fan-in scaled matrices, orthogonal recurrences."""
        for part in self.modules():
            if isinstance(part, nn.Linear):
                nn.init.normal_(part.weight, std=part.in_features**-0.5, generator=generator)
                if part.bias is not None:
                    nn.init.zeros_(part.bias)
            elif isinstance(part, nn.RNNBase):
                init_recurrent(part, generator)
        nn.init.normal_(self.embedding.weight, std=self.config.dim**-0.5, generator=generator)

    def encode(self, source: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """source (rows, time) int64 -> outputs (rows, time, 2 hidden) and the decoder's first state (rows, hidden)."""
        embedded = self.embedding(source)
        packed = pack_padded_sequence(embedded, lengths.cpu(), batch_first=True, enforce_sorted=False)
        outputs, last = self.encoder(packed)
        hidden = last[0] if self.config.cell == "lstm" else last  # (2, rows, hidden): forwards, backwards
        padded, _ = pad_packed_sequence(outputs, batch_first=True, total_length=source.shape[1])
        return padded, torch.tanh(self.bridge(hidden.transpose(0, 1).flatten(1)))

    def forward(self, source: Tensor, lengths: Tensor, target: Tensor) -> Tensor:
        """Logits (rows, target time, vocab) of the token after each target token, all given (teacher forcing).

        Args:
            source: (rows, time) int64, of which the first `lengths` (rows,) count.
            target: (rows, target time) int64, the decoder's inputs.
        """
        outputs, state = self.encode(source, lengths)
        return self._decode(self._memory(outputs, lengths), self._cell_state(state), target)[0]

    @torch.no_grad()
    def greedy(self, source: Tensor, lengths: Tensor, start: int, steps: int) -> Tensor:
        """The likeliest token at each of `steps` steps: (rows, steps)."""
        outputs, first = self.encode(source, lengths)
        memory, state = self._memory(outputs, lengths), self._cell_state(first)
        token = torch.full((source.shape[0], 1), start, dtype=torch.int64, device=source.device)
        tokens = []
        for _ in range(steps):
            logits, state = self._decode(memory, state, token)
            token = logits.argmax(-1)
            tokens.append(token)
        return torch.cat(tokens, 1)

    def _memory(self, outputs: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
        """Values, keys and the mask of padding that attention reads."""
        if self.key is None:
            return None
        padding = torch.arange(outputs.shape[1], device=outputs.device) >= lengths[:, None].to(outputs.device)
        return outputs, self.key(outputs), padding

    def _cell_state(self, hidden: Tensor) -> tuple[Tensor, ...]:
        state = hidden[None]
        return (state, torch.zeros_like(state)) if self.config.cell == "lstm" else (state,)

    def _decode(
        self, memory: tuple[Tensor, Tensor, Tensor] | None, state: tuple[Tensor, ...], target: Tensor
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        embedded = self.embedding(target)
        if self.config.attention == "additive":
            assert memory is not None
            hidden, state = self._step_by_step(memory, state, embedded)
        else:
            hidden, state = self._run(embedded, state)
            if memory is not None:
                hidden = torch.cat([self._dot(memory, hidden), hidden], -1)
        return self.output(torch.tanh(self.join(hidden))), state

    def _run(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        y, after = self.decoder(x, state if self.config.cell == "lstm" else state[0])
        return y, after if self.config.cell == "lstm" else (after,)

    def _dot(self, memory: tuple[Tensor, Tensor, Tensor], hidden: Tensor) -> Tensor:
        values, keys, padding = memory
        assert self.query is not None
        scores = self.query(hidden) @ keys.mT  # (rows, target time, source time)
        return scores.masked_fill(padding[:, None], float("-inf")).softmax(-1) @ values

    def _step_by_step(
        self, memory: tuple[Tensor, Tensor, Tensor], state: tuple[Tensor, ...], embedded: Tensor
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        values, keys, padding = memory
        query, score = cast(nn.Linear, self.query), cast(nn.Linear, self.score)
        out = []
        for token in embedded.split(1, dim=1):
            energies = score(torch.tanh(keys + query(state[0][0])[:, None]))[..., 0]  # (rows, source time)
            weights = F.softmax(energies.masked_fill(padding, float("-inf")), -1)
            context = weights[:, None] @ values
            y, state = self._run(torch.cat([token, context], -1), state)
            out.append(torch.cat([context, y], -1))
        return torch.cat(out, 1), state
