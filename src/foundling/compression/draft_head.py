"""Training a draft head: the model stays as it is, a small cell learns to foresee what it will say."""

from __future__ import annotations

import shutil
from typing import Any

import torch
from torch import Tensor, nn

from foundling.compression.distill_config import DistillConfig
from foundling.compression.divergence import divergence
from foundling.compression.teachers import LocalTeacher
from foundling.core.artifacts import Artifact, Draft
from foundling.core.errors import FoundlingError
from foundling.core.hardware import device
from foundling.models.draft_head import DraftHead
from foundling.models.layers.paged import is_recurrent
from foundling.training.batch import Batch
from foundling.training.loss import chunked_loss
from foundling.training.objective import LossSum, Objective
from foundling.training.trainer import Trainer

LOG = "training.log.jsonl"
NEARER = 0.8  # weight of a guess against the one before it, which must be right for it to count (Medusa, section 2.2.1)
LEFT = ("manifest.json", LOG)


class Foresight:
    """The divergence of every guess from the model's own prediction at that place.

    At place t, guess k reads the hidden state of t and the tokens t + 1 to t + k, and should predict what the model
    will predict at t + k.
    """

    def __init__(self, source: Objective, teacher: LocalTeacher, config: DistillConfig) -> None:
        self.source, self.teacher, self.config = source, teacher, config

    def batch(self, step: int, model: nn.Module | None = None) -> Batch:
        """The source's."""
        return self.source.batch(step)

    def loss(self, model: Any, batch: Batch) -> LossSum:
        """Summed over places and guesses, later ones weighing less; metrics: how often guess k is the model's."""
        base, config = self.teacher.module, self.config
        known = self.teacher.hidden(batch)  # (rows, time, dim)
        with torch.no_grad():
            embedded = base.embedding(batch.tokens)
        state, total, count = known, known.new_zeros((), dtype=torch.float32), 0
        metrics: dict[str, tuple[float | Tensor, float | Tensor]] = {}
        for k in range(1, model.most + 1):
            state = model(state[:, : known.shape[1] - k], embedded[:, k:])
            later, places = known[:, k:].flatten(0, 1), state.flatten(0, 1)
            right = torch.zeros((), device=known.device)

            def of_chunk(logits: Tensor, part: slice, later: Tensor = later, right: Tensor = right) -> Tensor:
                with torch.no_grad():
                    theirs = base.head(later[part])
                    right += (logits.argmax(-1) == theirs.argmax(-1)).sum()
                return divergence(logits, theirs, config.divergence, config.js_weight, config.temperature).sum()

            total = total + NEARER ** (k - 1) * chunked_loss(places, base, of_chunk)
            metrics[f"foreseen_{k}"] = (right, len(places))
            count += len(places)
        return LossSum(total, float(count), metrics)


def build_draft_head(config: DistillConfig, given: Artifact, teacher: LocalTeacher, source: Any, draft: Draft) -> None:
    """Train the head and write the model's directory with it.

    Raises:
        FoundlingError: a model with recurrent state, which cannot take guesses back.
    """
    base = teacher.module
    if is_recurrent(base.new_state(2, 2, 16, torch.float32, "cpu")):
        what = "a model with recurrent state cannot speculate"
        raise FoundlingError(what, "its state cannot be taken back", "Leave draft_tokens out")
    torch.manual_seed(config.seed)
    head = DraftHead(base.config.dim, config.draft_tokens).to(device())
    trainer = Trainer(
        head,
        Foresight(source, teacher, config),
        config,
        draft.scratch,
        log=draft.scratch / LOG,
        data=f"{given.key} draft head",
        title="draft head",
    )
    summary = trainer.fit()
    draft.seeds["distill"] = config.seed
    draft.metrics |= {
        "parameters": base.config.n_parameters(),
        "draft_parameters": sum(p.numel() for p in head.parameters()),
        "steps": summary.steps,
        "tokens": summary.tokens,
        "training_loss": summary.loss,
        **summary.metrics,
    }
    draft.timings |= {"tokens_per_s": summary.tokens_per_s, "training_seconds": summary.seconds}
    for path in given.path.iterdir():
        if path.is_file() and path.name not in LEFT:
            shutil.copyfile(path, draft.path / path.name)
    head.save(draft.path)
    shutil.copyfile(draft.scratch / LOG, draft.path / LOG)
