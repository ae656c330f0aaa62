"""The post-training stages end to end on a tiny model: what they write, refuse, count, and how they resume."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from foundling.core.errors import FoundlingError
from foundling.models.adapter_files import load_adapter
from foundling.models.checkpoint import load_module
from foundling.post_training import rewards
from foundling.post_training.reward_model import load_scorer
from foundling.training.trainer import Trainer

from .tiny_chat import hashes, make_directory, run


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_directory(tmp_path_factory.mktemp("tiny-chat"))


def _write(path: Path, rows: list[Any]) -> str:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


def _pairs(path: Path, n: int = 12) -> str:
    return _write(path, [{"prompt": f"say {i}", "chosen": f"yes {i}", "rejected": "no"} for i in range(n)])


@pytest.mark.parametrize(
    ("method", "fields"),
    [
        ("dpo", {}), ("cdpo", {}), ("robust", {}), ("ipo", {}), ("hinge", {}), ("simpo", {"beta": 2.0}),
        ("orpo", {"sft_weight": 1.0}), ("kto", {}),
    ],
)  # fmt: skip
def test_every_preference_method_learns_the_pairs(
    base: Path, tmp_path: Path, method: str, fields: dict[str, Any]
) -> None:
    """Guards each method's whole path: after some epochs the chosen answers are likelier than the rejected ones."""
    data = _pairs(tmp_path / "pairs.jsonl")
    made = run("PreferConfig", base, tmp_path, data=(data,), method=method, steps=12, learning_rate=3e-3, **fields)
    if method == "kto":
        assert made.metrics["desirable_logratio"] > made.metrics["undesirable_logratio"]
    else:
        assert made.metrics["accuracy"] == 1.0
    assert made.metrics["pairs"] == 12


def test_a_killed_run_goes_on_to_the_same_bytes(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards resume after a kill between two steps: reference scores, samples and data order come back as they were."""
    data = _pairs(tmp_path / "pairs.jsonl")
    fields = {"data": (data,), "method": "kto", "steps": 5, "checkpoint_every": 2}
    whole = hashes(run("PreferConfig", base, tmp_path / "whole", **fields))
    with monkeypatch.context() as patch:
        step = Trainer._train_step

        def dies(self: Trainer, number: int) -> Any:
            if number == 3:
                raise KeyboardInterrupt
            return step(self, number)

        patch.setattr(Trainer, "_train_step", dies)
        with pytest.raises(KeyboardInterrupt):
            run("PreferConfig", base, tmp_path / "killed", **fields)
    assert hashes(run("PreferConfig", base, tmp_path / "killed", **fields)) == whole


def test_own_graded_answers_become_pairs(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards the model's own samples: made once, paired right against wrong, written beside the model."""
    monkeypatch.setattr(rewards.expressions, "grade", _grade_by_length)
    made = run("PreferConfig", base, tmp_path, examples=8, samples=16, max_tokens=50, context=200, steps=2)
    rows = [json.loads(line) for line in (made.path / "preferences.jsonl").read_text().splitlines()]
    assert len(rows) == made.metrics["pairs"] > 0
    assert all(len(row["chosen"][0]["content"]) % 2 == 0 != len(row["rejected"][0]["content"]) % 2 for row in rows)


def test_rejection_sampling_learns_its_own_right_answers(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards expert iteration: only right answers are learned from, with noise on the embeddings, to the same bytes."""
    monkeypatch.setattr(rewards.expressions, "grade", _grade_by_length)
    fields = {"data": ("own-expressions",), "examples": 8, "samples": 16, "max_tokens": 50, "context": 200, "steps": 2}
    made = run("SFTConfig", base, tmp_path / "a", **fields, noise=5.0, too_long="skip")
    assert 0 < made.metrics["examples"] <= 8 * 4
    again = run("SFTConfig", base, tmp_path / "b", **fields, noise=5.0, too_long="skip")
    assert hashes(again) == hashes(made)


def _grade_by_length(items: Any, answers: list[str]) -> list[Any]:
    from foundling.evaluation.tasks.expressions import Outcome

    return [Outcome("passed" if len(answer) % 2 == 0 else "wrong") for answer in answers]


def test_a_task_that_teaches_nothing_is_refused(base: Path, tmp_path: Path) -> None:
    """Guards against training on no pairs: an untrained model has no right answer."""
    with pytest.raises(FoundlingError, match="no prompt has both"):
        run("PreferConfig", base, tmp_path, examples=2, samples=2, max_tokens=2, steps=1)


@pytest.mark.parametrize("method", ["grpo", "ppo"])
def test_reinforce_resumes_to_the_same_bytes(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """Guards RL's purity: rollouts are a function of (seed, step, weights), so a killed run samples the same again.

    With two updates a rollout the kill comes between them, when the answers can no longer be sampled again.
    """
    monkeypatch.setattr(rewards.expressions, "grade", _grade_by_length)
    monkeypatch.setattr(rewards, "POOL", 50)
    fields = {
        "prompts": 2,
        "samples": 4,
        "max_tokens": 6,
        "steps": 4,
        "checkpoint_every": 1,
        "kl": 0.1,
        "method": method,
    }
    fields |= {"updates": 2, "precision": "bf16"} if method == "ppo" else {"updates": 1}
    whole = hashes(run("ReinforceConfig", base, tmp_path / "whole", **fields))
    step = Trainer._train_step

    def dies(self: Trainer, number: int) -> Any:
        if number == 3:
            raise KeyboardInterrupt
        return step(self, number)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_train_step", dies)
        with pytest.raises(KeyboardInterrupt):
            run("ReinforceConfig", base, tmp_path / "killed", **fields)
    made = run("ReinforceConfig", base, tmp_path / "killed", **fields)
    assert hashes(made) == whole
    if method == "grpo":
        assert made.metrics["rollout_mismatch_nats"] < 1e-4, "fp32 rollouts must agree with the trainer"


def test_an_adapter_is_kept_and_merged(base: Path, tmp_path: Path) -> None:
    """Guards the two forms of an adapted model: base + adapter computes what the merged directory does."""
    data = _write(tmp_path / "chats.jsonl", [{"prompt": f"say {i}", "completion": f"yes {i}"} for i in range(9)])
    adapter = {"method": "dora", "rank": 4}
    made = run("SFTConfig", base, tmp_path, data=(data,), steps=3, adapter=adapter, learning_rate=1e-2)
    merged, beside = load_module(made.path), load_module(base)
    before = beside(torch.arange(20)[None])
    load_adapter(beside, made.path / "adapter")
    after = beside(torch.arange(20)[None])
    torch.testing.assert_close(merged(torch.arange(20)[None]), after, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(before, after, atol=1e-3)
    assert made.metrics["trained_parameters"] < sum(p.numel() for p in merged.parameters()) / 5


BAD_PAIRS: list[tuple[Any, str]] = [
    ({"prompt": "a", "chosen": "b"}, "rejected"),
    ({"prompt": "a", "chosen": "b", "rejected": "b"}, "the same"),
    ({"prompt": "a", "chosen": "", "rejected": "b"}, "missing"),
    ({"prompt": "", "chosen": "c", "rejected": "b"}, "missing"),
    ({"prompt": [{"role": "oracle", "content": "a"}], "chosen": "c", "rejected": "b"}, "oracle"),
    ({"prompt": "a", "chosen": [{"role": "user", "content": "c"}], "rejected": "b"}, "assistant"),
    ({"prompt": "a", "chosen": [{"role": "assistant", "content": 3}], "rejected": "b"}, "not text"),
    ("{broken", "not JSON"),
    (["a"], "list"),
]


@pytest.mark.parametrize(("row", "said"), BAD_PAIRS)
def test_bad_pairs_are_named_or_counted(base: Path, tmp_path: Path, row: Any, said: str) -> None:
    """Guards against a bad row that is learned from in silence: file and line, or a count under its reason."""
    good = [{"prompt": f"say {i}", "chosen": "yes", "rejected": "no"} for i in range(4)]
    data = _write(tmp_path / "pairs.jsonl", [*good, row])
    with pytest.raises(FoundlingError, match=r"pairs\.jsonl:5") as caught:
        run("PreferConfig", base, tmp_path / "a", data=(data,), steps=1)
    assert said in str(caught.value)
    made = run("PreferConfig", base, tmp_path / "b", data=(data,), steps=1, invalid="skip")
    assert sum(made.metrics["skipped"].values()) == 1


def test_long_pairs_follow_the_policy(base: Path, tmp_path: Path) -> None:
    """Guards the three policies for what does not fit: refuse by name, skip or cut with a count."""
    rows = [{"prompt": "say", "chosen": "yes " * n, "rejected": "no"} for n in (1, 2, 200)]
    data = _write(tmp_path / "pairs.jsonl", rows)
    with pytest.raises(FoundlingError, match=r"pairs\.jsonl:3"):
        run("PreferConfig", base, tmp_path / "a", data=(data,), steps=1)
    skipped = run("PreferConfig", base, tmp_path / "b", data=(data,), steps=1, too_long="skip")
    cut = run("PreferConfig", base, tmp_path / "c", data=(data,), steps=1, too_long="truncate")
    assert (skipped.metrics["pairs"], cut.metrics["pairs"]) == (2, 3)
    assert list(cut.metrics["skipped"].values()) == [1]


def test_a_reward_model_learns_and_judges(base: Path, tmp_path: Path) -> None:
    """Guards the reward model's whole path: it learns its pairs, is held to others, and serves as GRPO's reward."""
    rows = [{"prompt": f"say {i}", "chosen": f"yes {i}", "rejected": f"no {i}"} for i in range(40)]
    data = _write(tmp_path / "pairs.jsonl", rows)
    made = run("RewardConfig", base, tmp_path / "reward", data=(data,), steps=20, held_out=0.3, learning_rate=3e-3)
    assert made.metrics["held_out_pairs"] > 5
    assert made.metrics["held_out_accuracy"] == 1.0
    assert made.metrics["held_out_accuracy_low"] < 1.0
    score = load_scorer(made.path)
    chats = [[{"role": "user", "content": "say 3"}, {"role": "assistant", "content": a}] for a in ("yes 3", "no 3")]
    good, bad = score(chats)
    assert good > bad
    prompts = _write(tmp_path / "prompts.jsonl", [{"prompt": "say 3", "verifier": "exact", "data": "yes 3"}] * 4)
    fields = {"data": (prompts,), "prompts": 2, "samples": 4, "max_tokens": 6, "steps": 2}
    tuned = run("ReinforceConfig", base, tmp_path / "rl", judge=made.path, **fields)
    assert tuned.metrics["verified_last_step"] == 0.0 != tuned.metrics["reward_last_step"]


def test_labelled_answers_for_kto(base: Path, tmp_path: Path) -> None:
    """Guards KTO's own rows, and that other methods refuse them."""
    rows = [{"prompt": f"say {i}", "completion": "yes" if i % 2 else "no", "label": bool(i % 2)} for i in range(12)]
    data = _write(tmp_path / "judged.jsonl", rows)
    made = run("PreferConfig", base, tmp_path / "kto", data=(data,), method="kto", steps=12, learning_rate=3e-3)
    assert made.metrics["judged"] == 12
    assert made.metrics["desirable_logratio"] > made.metrics["undesirable_logratio"]
    with pytest.raises(FoundlingError, match=r"judged\.jsonl:1"):
        run("PreferConfig", base, tmp_path / "dpo", data=(data,), method="dpo", steps=1)


def test_orpo_needs_the_cross_entropy(base: Path, tmp_path: Path) -> None:
    """Guards a setting that would only make both answers less likely."""
    with pytest.raises(FoundlingError, match="sft_weight"):
        run("PreferConfig", base, tmp_path, method="orpo")
