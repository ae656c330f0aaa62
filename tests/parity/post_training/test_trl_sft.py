"""SFT on chats and the odds ratio against trl, which does not pack on a CPU: packing must change nothing."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset

from foundling.post_training.config import SFTConfig
from foundling.post_training.data import Example
from foundling.post_training.packing import PackedRows
from foundling.post_training.preference import PairLogprobs, odds_ratio
from foundling.post_training.sft import SupervisedFineTuning, encode

from .trl_cases import (
    ROWS,
    assert_same,
    assistant,
    make_directory,
    our_loss,
    ours,
    their_loss,
    theirs,
    trl_arguments,
    user,
)

CHATS = [
    [*user(ROWS[i][0]), *assistant(ROWS[i][1]), *user(ROWS[j][0]), *assistant(ROWS[j][2])]
    for i, j in ((0, 1), (2, 3), (4, 5))
] + [[*user(p), *assistant(c)] for p, c, _ in ROWS]


@pytest.mark.parametrize("context", [64, 200])
def test_sft_equals_trl(tmp_path: Path, context: int) -> None:
    """Guards the assistant-only mask over several turns, and that neighbours in a packed row do not see each other."""
    from trl import SFTConfig as TheirConfig
    from trl import SFTTrainer

    directory = make_directory(tmp_path / "model")
    model, tokenizer = theirs(directory)
    arguments = TheirConfig(**trl_arguments(tmp_path, len(CHATS)), max_length=None, assistant_only_loss=True)
    data = Dataset.from_list([{"messages": chat} for chat in CHATS])
    trainer = SFTTrainer(model, args=arguments, train_dataset=data, processing_class=tokenizer)
    module, own = ours(directory)
    encoded, counts = encode(
        [Example(tuple(chat), str(n)) for n, chat in enumerate(CHATS)], own, SFTConfig(context=context)
    )
    assert not counts
    rows = PackedRows(encoded, context, own.pad_id, seed=0)
    objective = SupervisedFineTuning(rows, rows.rows_in(1))
    assert rows.rows_in(1) < len(CHATS), "the case must pack several chats into a row"
    assert_same(our_loss(module, objective.batch(0), objective.loss), their_loss(trainer))


def test_odds_ratio_equals_trl() -> None:
    """Guards ORPO's log odds, also where an answer is nearly certain and 1 − p loses all its digits."""
    from trl.experimental.orpo import ORPOTrainer

    tokens = torch.tensor([3.0, 5.0, 2.0, 4.0])
    chosen = torch.tensor([-0.4, -2.0, -3e-4, -9.0], requires_grad=True)
    rejected = torch.tensor([-1.0, -0.2, -5.0, -1e-3], requires_grad=True)
    zeros = torch.zeros(4)
    mine = odds_ratio(PairLogprobs(chosen * tokens, rejected * tokens, zeros, zeros, tokens, tokens), 0.3).mean()
    own = torch.autograd.grad(mine, [chosen, rejected])
    self = SimpleNamespace(beta=0.3, accelerator=SimpleNamespace(device="cpu"))
    their = -ORPOTrainer.odds_ratio_loss(self, chosen, rejected)[0].mean()
    expected = torch.autograd.grad(their, [chosen, rejected])
    torch.testing.assert_close(mine, their, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(own, expected, atol=1e-5, rtol=1e-5)
