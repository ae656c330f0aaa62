"""What a student learns from: a model here, its best tokens kept on disk, or a model behind a URL."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from foundling.core.errors import FoundlingError
from foundling.inference.remote import RemoteModel
from foundling.models.context import Context
from foundling.models.language_model import LanguageModel
from foundling.tokenization.tokenizer import Tokenizer
from foundling.training.batch import Batch

Best = tuple[Tensor, Tensor]  # ids and log-probabilities (rows, time, k) of the likeliest next tokens
_PART = 64  # positions whose logits are held at once, per row


class LocalTeacher:
    """A model in memory."""

    def __init__(self, module: LanguageModel) -> None:
        self.module = module.eval().requires_grad_(False)

    def hidden(self, batch: Batch) -> Tensor:
        """(rows, time, dim) final hidden states."""
        with torch.no_grad():
            return self.module.hidden(batch.tokens, context_of(batch))

    def best(self, tokens: Tensor, k: int) -> Best:
        """The k likeliest next tokens at every position of tokens (rows, time)."""
        found = []
        with torch.no_grad():
            there = tokens.to(next(self.module.parameters()).device)
            for part in self.module.hidden(there).split(_PART, dim=1):
                found.append(torch.log_softmax(self.module.head(part).float(), -1).topk(k))
        return torch.cat([f.indices for f in found], 1).cpu(), torch.cat([f.values for f in found], 1).cpu()


class RemoteTeacher:
    """A model behind a URL that returns the log-probabilities of a prompt's tokens (completions with `echo`).

    Args:
        tokenizer: of the student; the endpoint must have the same, since token ids are sent.
    """

    def __init__(self, model: RemoteModel, tokenizer: Tokenizer) -> None:
        self.engine = model.engine
        self.ids = {tokenizer.decode([i], skip_special=False): i for i in reversed(range(tokenizer.vocab_size))}

    def best(self, tokens: Tensor, k: int) -> Best:
        """The k likeliest next tokens at every position, as far as their text tells which they are.

        Raises:
            FoundlingError: the endpoint does not echo log-probabilities.
        """
        shape = (*tokens.shape, k)
        ids, logprobs = torch.zeros(shape, dtype=torch.int64), torch.full(shape, -30.0)
        # One token more than the row: what is told for a token is told of the position before it.
        rows = [[*row, row[-1]] for row in tokens.tolist()]
        for r, tops in enumerate(self.engine.endpoint.map(lambda row: self._tops(row, k), rows)):
            for at, top in enumerate(tops):
                known = [(self.ids[piece], value) for piece, value in top.items() if piece in self.ids][:k]
                for place, (token, value) in enumerate(known):
                    ids[r, at, place], logprobs[r, at, place] = token, value
        return ids, logprobs

    def _tops(self, row: list[int], k: int) -> list[dict[str, float]]:
        body = {"model": self.engine.model, "prompt": row, "max_tokens": 0, "temperature": 0, "echo": True}
        reply: Any = self.engine.endpoint.post("/completions", {**body, "logprobs": k})
        told = ((reply.get("choices") or [{}])[0].get("logprobs") or {}).get("top_logprobs") or []
        if len(told) != len(row):
            raise FoundlingError(
                f"{self.engine.endpoint.url} cannot teach",
                f"it gave log-probabilities of {len(told)} of {len(row)} tokens (completions with echo and logprobs)",
                "Its tokenizer must be the student's; vLLM and this package's server can do it",
            )
        return [top or {} for top in told[1:]]


class KeptTeacher:
    """The likeliest tokens of every step's batch, computed once and kept in a folder: 6 bytes for each of them."""

    def __init__(self, teacher: LocalTeacher | RemoteTeacher, k: int, folder: Path) -> None:
        self.teacher, self.k, self.folder = teacher, k, folder
        folder.mkdir(parents=True, exist_ok=True)

    def best(self, number: int, tokens: Tensor) -> Best:
        """Of batch number `number`, whose tokens (rows, time) are always the same."""
        path = self.folder / f"{number:06d}.safetensors"
        if not path.exists():
            ids, logprobs = self.teacher.best(tokens, self.k)
            partial = path.with_suffix(".tmp")
            save_file({"ids": ids.to(torch.int32), "logprobs": logprobs.to(torch.float16)}, partial)
            partial.replace(path)
        kept = load_file(path)
        return kept["ids"].long(), kept["logprobs"].float()


def context_of(batch: Batch) -> Context:
    """Where a batch's rows are one sequence each, or packed."""
    if batch.segments is not None:
        return Context.packed(batch.segments)
    return Context.full(batch.tokens.shape[0], batch.tokens.shape[1], batch.tokens.device)
