"""Preference losses and their gradients against trl's trainers, from the same chat rows through both tokenizations."""

from __future__ import annotations

import copy
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch import Tensor

from foundling.post_training.config import PreferConfig
from foundling.post_training.pairs import Pair, encode_pairs
from foundling.post_training.preferring import (
    KahnemanTversky,
    PreferenceOptimization,
    mismatched,
    reference_logprobs,
)

from .trl_cases import (
    ROWS,
    assert_same,
    assistant,
    make_directory,
    our_loss,
    ours,
    preference_dataset,
    their_loss,
    theirs,
    trl_arguments,
    user,
)

N = len(ROWS)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_directory(tmp_path_factory.mktemp("tiny-chat"))


def _drift(parameter: Tensor) -> None:
    """Move a model away from its reference, so that the log-ratios are not all zero."""
    with torch.no_grad():
        parameter += 0.05 * torch.sin(torch.arange(parameter.numel(), dtype=torch.float32)).view_as(parameter)


def _encoded(tokenizer: Any) -> list[Any]:
    pairs = [Pair(tuple(user(p)), tuple(assistant(c)), tuple(assistant(r)), str(i)) for i, (p, c, r) in enumerate(ROWS)]
    return encode_pairs(pairs, tokenizer, 256, "refuse", "refuse", Counter())


def _config(**fields: Any) -> PreferConfig:
    return PreferConfig(**({"batch_size": N, "precision": "fp32", "context": 64, "steps": 1} | fields))


def _ours(directory: Path, tmp_path: Path, config: PreferConfig) -> tuple[float, Tensor]:
    module, tokenizer = ours(directory)
    groups = [(pair.chosen, pair.rejected) for pair in _encoded(tokenizer)]
    reference = reference_logprobs(module, groups, config, tokenizer.pad_id, tmp_path / "reference.safetensors")
    objective = PreferenceOptimization(groups, reference, config, tokenizer.pad_id)
    _drift(module.embedding.weight)
    return our_loss(module, objective.batch(0, module), objective.loss)


@pytest.mark.parametrize(
    ("method", "fields", "trl_fields"),
    [
        ("dpo", {"beta": 0.1}, {"loss_type": "sigmoid", "beta": 0.1}),
        ("ipo", {"beta": 0.3}, {"loss_type": "ipo", "beta": 0.3}),
        ("hinge", {"beta": 0.2}, {"loss_type": "hinge", "beta": 0.2}),
        ("robust", {"beta": 0.4, "flipped": 0.2}, {"loss_type": "robust", "beta": 0.4, "label_smoothing": 0.2}),
    ],
)
def test_dpo_family_equals_trl(
    directory: Path, tmp_path: Path, method: str, fields: dict[str, Any], trl_fields: dict[str, Any]
) -> None:
    """Guards the masks (trl's own tokenization of the same chats), the packing of pairs into rows, and each loss."""
    from trl import DPOConfig, DPOTrainer

    model, tokenizer = theirs(directory)
    reference = copy.deepcopy(model)
    arguments = DPOConfig(**trl_arguments(tmp_path), max_length=None, **trl_fields)
    trainer = DPOTrainer(
        model, reference, args=arguments, train_dataset=preference_dataset(), processing_class=tokenizer
    )
    _drift(trainer.model.get_input_embeddings().weight)
    assert_same(_ours(directory, tmp_path, _config(method=method, **fields)), their_loss(trainer))


@pytest.mark.parametrize(
    ("method", "fields", "trl_fields"),
    [
        ("simpo", {"beta": 2.0, "gamma": 0.5}, {"loss_type": "simpo", "beta": 2.0, "simpo_gamma": 0.5, "cpo_alpha": 0.0}),  # noqa: E501
        ("cdpo", {"beta": 0.1, "flipped": 0.1}, {"loss_type": "sigmoid", "beta": 0.1, "label_smoothing": 0.1, "cpo_alpha": 0.0}),  # noqa: E501
    ],
)  # fmt: skip
def test_reference_free_losses_equal_trl(
    directory: Path, tmp_path: Path, method: str, fields: dict[str, Any], trl_fields: dict[str, Any]
) -> None:
    """SimPO as it is; cDPO's label smoothing, which trl keeps in CPO only, against a reference of zeros."""
    from trl.experimental.cpo import CPOConfig, CPOTrainer

    model, tokenizer = theirs(directory)
    arguments = CPOConfig(**trl_arguments(tmp_path), max_length=256, **trl_fields)
    trainer = CPOTrainer(model, args=arguments, train_dataset=preference_dataset(), processing_class=tokenizer)
    _drift(trainer.model.get_input_embeddings().weight)
    config = _config(method=method, **fields)
    module, own_tokenizer = ours(directory)
    groups = [(pair.chosen, pair.rejected) for pair in _encoded(own_tokenizer)]
    objective = PreferenceOptimization(groups, torch.zeros(N, 2), config, own_tokenizer.pad_id)
    _drift(module.embedding.weight)
    assert_same(our_loss(module, objective.batch(0, module), objective.loss), their_loss(trainer))


def test_kto_equals_trl(directory: Path, tmp_path: Path) -> None:
    """Guards KTO's baseline: answers mismatched with prompts the way trl rotates them, clamped at zero, no gradient."""
    from trl import KTOConfig, KTOTrainer

    rows = [(p, a, good) for p, c, r in ROWS for a, good in ((c, True), (r, False))]
    data = Dataset.from_list([{"prompt": user(p), "completion": assistant(a), "label": g} for p, a, g in rows])
    model, tokenizer = theirs(directory)
    reference = copy.deepcopy(model)
    arguments = KTOConfig(**trl_arguments(tmp_path, len(rows)), max_length=None, beta=0.3, desirable_weight=1.2)
    trainer = KTOTrainer(model, reference, args=arguments, train_dataset=data, processing_class=tokenizer)
    _drift(trainer.model.get_input_embeddings().weight)
    config = _config(method="kto", beta=0.3, desirable_weight=1.2, batch_size=len(rows))
    module, own_tokenizer = ours(directory)
    groups = mismatched([(o, o.mask.index(True)) for p in _encoded(own_tokenizer) for o in (p.chosen, p.rejected)])
    scores = reference_logprobs(module, groups, config, own_tokenizer.pad_id, tmp_path / "reference.safetensors")
    desirable = torch.tensor([good for _, _, good in rows])
    objective = KahnemanTversky(groups, desirable, scores, config, own_tokenizer.pad_id)
    _drift(module.embedding.weight)
    batch = objective.batch(0, module)
    assert float(batch.extra["kl"].max()) > 0, "the case must exercise the baseline"
    assert_same(our_loss(module, batch, objective.loss), their_loss(trainer))
