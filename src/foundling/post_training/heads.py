"""Scores in place of words: a language model's body under a new head, for rewards, classes or numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from foundling.core.rng import torch_generator
from foundling.models.config import HeadConfig
from foundling.models.context import Context
from foundling.models.language_model import LanguageModel
from foundling.post_training.packing import Encoded
from foundling.training.batch import Batch

START_STD = 0.02


def with_head(module: LanguageModel, n_labels: int, seed: int) -> LanguageModel:
    """The body of `module` (shared, not copied) under fresh scores; saved as ...ForSequenceClassification."""
    head = HeadConfig(kind="labels", n_labels=n_labels)
    config = module.config.model_copy(update={"head": head, "tie_embeddings": False})
    with torch.device("meta"):
        scored = LanguageModel(config)
    names = {name for name, _ in scored.named_parameters()} | {name for name, _ in scored.named_buffers()}
    state = {name: tensor for name, tensor in module.state_dict(keep_vars=True).items() if name in names}
    generator = torch_generator(seed, "head")
    fresh = START_STD * torch.randn(n_labels, config.dim, generator=generator)
    state["output.weight"] = fresh.to(module.embedding.weight.device)
    scored.load_state_dict(state, assign=True)
    return scored.requires_grad_(True)


def freeze_body(module: LanguageModel) -> None:
    """Train the head alone: feature-based transfer."""
    module.requires_grad_(False)
    train_head(module)


def train_head(module: LanguageModel) -> None:
    """Train the head, whatever else is frozen."""
    assert module.output is not None
    module.output.requires_grad_(True)


def whole(encoded: Encoded, pad_id: int) -> Encoded:
    """The same text with one token after it, so that the packed inputs, which lack the last, hold all of it."""
    return Encoded([*encoded.ids, pad_id], [*encoded.mask, False], encoded.source)


def last_scores(model: Any, batch: Batch, count: int) -> Tensor:
    """The head's scores at the last token of each sequence: (rows, count, labels), 0 where there is no sequence.

    A sequence's last token is where Hugging Face's classifiers of decoders read, too.
    """
    assert batch.segments is not None
    hidden = model.hidden(batch.tokens, Context.packed(batch.segments))  # (rows, time, dim)
    numbers = torch.arange(count, device=hidden.device)
    belongs = batch.segments[:, None, :] == numbers[None, :, None]  # (rows, count, time)
    place = torch.arange(batch.tokens.shape[1], device=hidden.device)
    last = torch.where(belongs, place, -1).amax(2)  # (rows, count); -1: no such sequence
    found = hidden.gather(1, last.clamp(min=0)[..., None].expand(-1, -1, hidden.shape[2]))
    scores: Tensor = model.head(found).float()
    return scores * (last >= 0)[..., None]


def score_texts(module: LanguageModel, texts: Sequence[Sequence[int]], pad_id: int) -> Tensor:
    """The head's scores of whole texts, given as ids: (texts, labels), without gradients."""
    with torch.inference_mode():
        return module.head(last_hidden(module, texts, pad_id)).float()


def last_hidden(module: LanguageModel, texts: Sequence[Sequence[int]], pad_id: int, rows: int = 32) -> Tensor:
    """The hidden state at the last token of each text: (texts, dim), without gradients."""
    found = []
    device = next(module.parameters()).device
    with torch.inference_mode():
        for start in range(0, len(texts), rows):
            part = texts[start : start + rows]
            width = max(len(ids) for ids in part)
            tokens = torch.tensor([[*ids, *[pad_id] * (width - len(ids))] for ids in part], device=device)
            lengths = torch.tensor([len(ids) for ids in part], device=device)
            hidden = module.hidden(tokens)  # padding stands behind, where a causal model does not see it
            found.append(hidden[torch.arange(len(part), device=device), lengths - 1])
    return torch.cat(found)
