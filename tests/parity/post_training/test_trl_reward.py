"""A reward model's loss and gradients against trl's RewardTrainer, on the directory that we write."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from foundling.models.checkpoint import load_module, save_module
from foundling.post_training.config import RewardConfig
from foundling.post_training.heads import whole, with_head
from foundling.post_training.pairs import Pair, encode_pairs
from foundling.post_training.reward_model import RewardModelling

from .trl_cases import (
    ROWS,
    assert_same,
    assistant,
    make_directory,
    our_loss,
    ours,
    preference_dataset,
    their_loss,
    trl_arguments,
    user,
)


@pytest.mark.parametrize("centre", [0.0, 0.3])
def test_reward_loss_equals_trl(tmp_path: Path, centre: float) -> None:
    """Guards the token that is scored, the head's file name, packing, and the centring term."""
    from trl import RewardConfig as TheirConfig
    from trl import RewardTrainer

    directory = make_directory(tmp_path / "model")
    module, tokenizer = ours(directory)
    scored = with_head(module, 1, seed=2)
    save_module(scored, tmp_path / "scored")
    tokenizer.save(tmp_path / "scored")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "scored")
    arguments = TheirConfig(
        **trl_arguments(tmp_path), max_length=None, center_rewards_coefficient=centre or None, disable_dropout=True
    )
    trainer = RewardTrainer(
        model, args=arguments, train_dataset=preference_dataset(),
        processing_class=AutoTokenizer.from_pretrained(tmp_path / "scored"),
    )  # fmt: skip
    pairs = [Pair(tuple(user(p)), tuple(assistant(c)), tuple(assistant(r)), p) for p, c, r in ROWS]
    encoded = encode_pairs(pairs, tokenizer, 256, "refuse", "refuse", Counter())
    groups = [(whole(p.chosen, tokenizer.pad_id), whole(p.rejected, tokenizer.pad_id)) for p in encoded]
    config = RewardConfig(batch_size=len(ROWS), context=64, centre=centre)
    objective = RewardModelling(groups, config, tokenizer.pad_id)
    again = load_module(tmp_path / "scored")
    assert_same(our_loss(again, objective.batch(0), objective.loss), their_loss(trainer))
