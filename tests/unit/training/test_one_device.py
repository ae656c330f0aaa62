"""Every tensor of a training step must lie where the model lies. Shown without a GPU: on torch's `meta` device, which
computes shapes only, each operation that mixes it with the CPU is an error here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from processes_worker import shape
from tiny import write_tokens
from torch.fx.experimental import _config as shapes
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from foundling.compression.distill import Distillation
from foundling.compression.distill_config import DistillConfig
from foundling.compression.draft_head import Foresight
from foundling.compression.teachers import LocalTeacher
from foundling.models.adapter_config import AdapterConfig
from foundling.models.adapters import attach
from foundling.models.build import build
from foundling.models.config import ModelConfig
from foundling.models.draft_head import DraftHead
from foundling.models.families.foundling_patterns import blocks_of
from foundling.models.language_model import LanguageModel
from foundling.post_training.classify import HeadTuning, LabelledText, LabelSpace
from foundling.post_training.config import ClassifyConfig, PreferConfig, ReinforceConfig, RewardConfig
from foundling.post_training.grpo import GroupRelativePolicyOptimization
from foundling.post_training.heads import score_texts, with_head
from foundling.post_training.packing import Encoded, PackedRows
from foundling.post_training.ppo import ActorCritic, ProximalPolicyOptimization
from foundling.post_training.preferring import KahnemanTversky, PreferenceOptimization, reference_logprobs
from foundling.post_training.reward_model import RewardModelling, agreement
from foundling.post_training.sft import SupervisedFineTuning
from foundling.training.batch import Batch
from foundling.training.bits_per_byte import HeldOut
from foundling.training.config import TrainingConfig
from foundling.training.objectives.causal import Causal
from foundling.training.objectives.contrastive import Contrastive, Crops, Embedder
from foundling.training.objectives.masked import Masked
from foundling.training.objectives.masked_diffusion import MaskedDiffusion
from foundling.training.objectives.prefix_lm import PrefixLM
from foundling.training.optimizers import build as optimizers
from foundling.training.token_files import TokenSplit
from foundling.training.trainer import Trainer

VOCAB = 61


class OneDevice(TorchDispatchMode):
    """Refuses operations on tensors of both devices, copies apart; a number, or a copy to the CPU, of meta is ones."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, options = func._schema.name, kwargs or {}
        if name == "aten::_local_scalar_dense" and args[0].is_meta:
            return 1.0 if args[0].dtype.is_floating_point else 1
        if name == "aten::_to_copy" and args[0].is_meta and str(options.get("device")) == "cpu":
            return torch.ones(args[0].shape, dtype=options.get("dtype") or args[0].dtype)
        tensors = [leaf for leaf in tree_leaves((args, options)) if isinstance(leaf, torch.Tensor)]
        devices = {t.device.type for t in tensors if t.dim() or t.is_meta}
        if name not in ("aten::_to_copy", "aten::copy_"):
            assert len(devices) < 2, f"{name} mixes {sorted(devices)}"
        return func(*args, **options)


@pytest.fixture(autouse=True)
def meta_device(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Masks select everything on meta, where nobody knows how much they select; AdamW is fused on real devices only."""
    real = optimizers._adamw

    def plain(groups: list[dict[str, Any]], config: TrainingConfig) -> torch.optim.AdamW:
        made = real(groups, config)
        for group in made.param_groups:
            group["fused"] = False
        return made

    monkeypatch.setattr(optimizers, "_adamw", plain)
    with shapes.patch(meta_nonzero_assume_all_nonzero=True):
        yield


@pytest.fixture
def split(tmp_path: Path) -> TokenSplit:
    return TokenSplit(write_tokens(tmp_path / "tokens"), "train")


def module(causal: bool = True) -> LanguageModel:
    """A small decoder without weights."""
    return build(shape(VOCAB).model_copy(update={"causal": causal}), 0).to("meta")


def step(module: torch.nn.Module, objective: Any, folder: Path, **options: Any) -> None:
    """One step of the loop, looked at."""
    config = TrainingConfig.model_validate({"steps": 2, "batch_size": 4, "context": 16, "diagnose_every": 1, **options})
    folder.mkdir(exist_ok=True)
    trainer = Trainer(module, objective, config, folder, log=folder / "log.jsonl")
    with OneDevice():
        trainer._train_step(0)


@pytest.mark.parametrize("name", ["causal", "documents", "prefix", "masked", "diffusion", "contrastive"])
def test_pretraining(name: str, split: TokenSplit, tmp_path: Path) -> None:
    """Guards against positions, masks or labels that a loss makes on the CPU."""
    arguments = (split, 16, 4, 0)
    objective: Any = {
        "causal": lambda: Causal(*arguments),
        "documents": lambda: Causal(*arguments, document_mask=True),
        "prefix": lambda: PrefixLM(*arguments),
        "masked": lambda: Masked(*arguments, mask_id=1),
        "diffusion": lambda: MaskedDiffusion(*arguments, mask_id=1),
        "contrastive": lambda: Contrastive(Crops(split, 8, 0), 8, 4, 0, pad_id=0),
    }[name]()
    trained: torch.nn.Module = module(causal=name not in ("masked", "diffusion"))
    if name == "contrastive":
        trained = Embedder(trained).to("meta")
    step(trained, objective, tmp_path, **({"diagnose_every": 0} if name == "contrastive" else {}))


KINDS = ("mamba", "mamba2", "s4", "h3", "rwkv4", "rwkv7", "lstm", "gru")


@pytest.mark.parametrize("kind", KINDS)
def test_every_mixer(kind: str, split: TokenSplit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against states, kernels and convolutions that a mixer makes on the CPU; packed documents, too."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # it does not know meta
    config = ModelConfig(family="foundling", vocab_size=VOCAB, dim=32, blocks=blocks_of(kind, 32, {}))
    objective = Causal(split, 16, 4, 0, document_mask=True)
    step(build(config, 0, zero_outputs=False).to("meta"), objective, tmp_path, diagnose_every=0)


def test_held_out_text(split: TokenSplit) -> None:
    """Guards against an evaluation whose rows stay on the CPU."""
    with OneDevice(), torch.no_grad():
        assert HeldOut(split, 16, 200).score(module())["bits_per_byte"] > 0


CONVERSATIONS = [Encoded(list(range(5, 15 + n)), [False] * 6 + [True] * (4 + n), f"row {n}") for n in range(6)]
PAIRS = [(one, CONVERSATIONS[5 - n]) for n, one in enumerate(CONVERSATIONS)]


def test_supervised_and_preferences(tmp_path: Path) -> None:
    """Also the reference's log-probabilities, which are computed before the loop, and KTO's batch-wide baseline."""
    model = module()
    step(model, SupervisedFineTuning(PackedRows(CONVERSATIONS, 32, 0, 0), 4, noise=5.0), tmp_path / "sft", context=32)
    config = PreferConfig(batch_size=4, context=64)
    with OneDevice():
        reference = reference_logprobs(model, PAIRS, config, 0, tmp_path / "reference.safetensors")
    assert reference.shape == (6, 2) and reference.device.type == "cpu"
    step(model, PreferenceOptimization(PAIRS, reference, config, 0), tmp_path / "dpo", context=64)
    desirable = torch.tensor([True, False] * 3)
    step(model, KahnemanTversky(PAIRS, desirable, reference, config, 0), tmp_path / "kto", context=64)


def test_scores_of_texts(tmp_path: Path) -> None:
    """A reward model and a classifier, trained and used."""
    judge = with_head(module(), 1, 0)
    step(judge, RewardModelling(PAIRS, RewardConfig(batch_size=4, context=64), 0), tmp_path, diagnose_every=0)
    with OneDevice():
        assert score_texts(judge, [[5, 6, 7], [8, 9]], 0).shape == (2, 1)
        assert agreement(judge, PAIRS, 64, 0)["held_out_pairs"] == 6
    texts = [LabelledText(list(range(5, 12)), [None] * 6 + ["a"], "row") for _ in range(4)]
    tuning = HeadTuning(
        texts, LabelSpace("texts", ["a", "b"]), ClassifyConfig(data=("rows",), batch_size=4, context=32), 0
    )
    step(with_head(module(), 2, 0), tuning, tmp_path / "classify", diagnose_every=0)


@pytest.mark.parametrize("kept", ["as-is", "int4"])
def test_adapters(kept: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their weights must be made where the frozen ones lie, quantized or not."""
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *_: False)  # it does not know meta
    model = module() if kept == "as-is" else build(shape(VOCAB), 0)
    attach(model, AdapterConfig.model_validate({"base": kept}), 0)
    if kept == "as-is":
        step(model, SupervisedFineTuning(PackedRows(CONVERSATIONS, 32, 0, 0), 4), tmp_path, context=32)
    assert {p.device.type for p in model.parameters()} == {"meta" if kept == "as-is" else "cpu"}


def test_a_draft_head(split: TokenSplit, tmp_path: Path) -> None:
    """Beside a teacher on the same device."""
    config = DistillConfig(draft_tokens=2, batch_size=4, context=16)
    foresight = Foresight(Causal(split, 16, 4, 0), LocalTeacher(module()), config)
    step(DraftHead(32, 2).to("meta"), foresight, tmp_path, diagnose_every=0)


class Given:
    """Rollouts that are already there."""

    def __init__(self) -> None:
        self.kept: Batch | None = None

    def batch(self, number: int) -> Batch:
        zeros, ones = torch.zeros(4, 8, dtype=torch.int64), torch.ones(4, 8)
        extra = {"logprobs": -ones, "reward": torch.tensor([1.0, 0, 1, 0]), "passed": torch.tensor([1.0, 0, 1, 0])}
        return Batch(zeros, zeros, ones, extra=extra, sources=[""] * 4)

    def keep(self, number: int, batch: Batch) -> None:
        self.kept = batch


def test_reinforcement(tmp_path: Path) -> None:
    """The references, and PPO's advantages, which are computed on the fresh rollout."""
    config = ReinforceConfig(prompts=2, samples=2, context=16, kl=0.1)
    options = {"diagnose_every": 0}
    policy = module()
    step(policy, GroupRelativePolicyOptimization(policy, Given(), config), tmp_path / "grpo", **options)  # type: ignore[arg-type]
    both = ActorCritic(module())
    step(both, ProximalPolicyOptimization(both, Given(), config), tmp_path / "ppo", **options)  # type: ignore[arg-type]


def test_distillation(split: TokenSplit, tmp_path: Path) -> None:
    """A teacher beside the student, whose likeliest tokens may also be kept on disk."""
    teacher, config = LocalTeacher(module()), DistillConfig(batch_size=4, context=16)
    step(module(), Distillation(Causal(split, 16, 4, 0), teacher, None, config), tmp_path)
    with OneDevice():
        ids, logprobs = teacher.best(torch.zeros(2, 9, dtype=torch.int64), 4)
    assert ids.device.type == logprobs.device.type == "cpu"
