"""Distillation: the divergences, what a student learns, the kept teacher, and answers written by either side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, rel_entr

from foundling.compression.answers import padded
from foundling.compression.distill import Distillation, Student, build_distilled
from foundling.compression.distill_config import DistillConfig
from foundling.compression.divergence import between, bucketed, divergence
from foundling.compression.teachers import KeptTeacher, LocalTeacher
from foundling.core.artifacts import Artifact, Draft
from foundling.core.config import parse
from foundling.core.errors import FoundlingError
from foundling.core.stages import Inputs
from foundling.inference.model import load
from foundling.models.language_model import LanguageModel
from foundling.tokenization.tokenizer import Tokenizer
from foundling.training.batch import Batch


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("kind", ["forward", "reverse", "js"])
def test_divergences_are_the_papers(kind: str, temperature: float) -> None:
    """Against scipy's relative entropy in float64; js with β = 0.3 is not symmetric, so that a mix-up shows."""
    rng = np.random.default_rng(0)
    student, teacher = rng.normal(size=(2, 5, 40)) * 3
    q, p = (np.exp(log_softmax(z / temperature, axis=-1)) for z in (student, teacher))
    m = 0.3 * p + 0.7 * q
    expected = {
        "forward": rel_entr(p, q).sum(-1),
        "reverse": rel_entr(q, p).sum(-1),
        "js": 0.3 * rel_entr(p, m).sum(-1) + 0.7 * rel_entr(q, m).sum(-1),
    }[kind]
    got = divergence(torch.tensor(student), torch.tensor(teacher), kind, 0.3, temperature)
    np.testing.assert_allclose(got.numpy(), expected * temperature**2, rtol=2e-5)


def test_js_is_trls() -> None:
    trainer = pytest.importorskip("trl.experimental.gkd").GKDTrainer
    student, teacher = torch.randn(2, 3, 4, 20, generator=torch.Generator().manual_seed(0))
    theirs = trainer.generalized_jsd_loss(student, teacher, beta=0.3, reduction="sum")
    torch.testing.assert_close(divergence(student, teacher, "js", 0.3).sum(), theirs.sum())


def test_buckets_with_all_tokens_are_the_whole_divergence() -> None:
    """And with fewer never more: merging outcomes can only bring two distributions nearer."""
    student, teacher = torch.randn(2, 6, 30, generator=torch.Generator().manual_seed(1))
    whole = divergence(student, teacher, "forward")
    last = whole
    for k in (29, 8, 2):
        part = _top_divergence(student, teacher, k)
        assert (part <= last + 1e-4).all()
        last = part
    torch.testing.assert_close(
        between(*bucketed(student, *reversed(torch.log_softmax(teacher, -1).topk(29))), "forward"),
        whole,
        atol=1e-3,
        rtol=0,
    )


def _top_divergence(student: torch.Tensor, teacher: torch.Tensor, k: int) -> torch.Tensor:
    top = torch.log_softmax(teacher, -1).topk(k)
    return between(*bucketed(student, top.indices, top.values), "forward")


def rows(module: LanguageModel, seed: int = 0) -> Batch:
    ids = torch.randint(3, 259, (4, 24), generator=torch.Generator().manual_seed(seed))
    mask = torch.ones(4, 23)
    mask[0, 10:] = 0
    return Batch(ids[:, :-1], ids[:, 1:], mask)


class Fixed:
    def __init__(self, batch: Batch) -> None:
        self.fixed = batch

    def batch(self, step: int, model: Any = None) -> Batch:
        return self.fixed

    def loss(self, model: Any, batch: Batch) -> Any:
        raise NotImplementedError


def test_loss_is_that_of_the_whole_logits(module: LanguageModel) -> None:
    """Value and gradients; guards against chunks that mix up positions, and against scoring what is masked."""
    student = load_student(module)
    batch, config = rows(module), DistillConfig(own_text=0.25, temperature=1.5, divergence="js", js_weight=0.3)
    objective = Distillation(Fixed(batch), LocalTeacher(module), None, config)
    result = objective.loss(student, objective.batch(0, student))
    result.total.backward()
    grads = [p.grad.clone() for p in student.parameters()]
    student.zero_grad()
    logits, mask = student(batch.tokens), batch.loss_mask
    far = divergence(logits, module(batch.tokens).detach(), "js", 0.3, 1.5)
    own = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), reduction="none").view_as(
        far
    )
    expected = ((0.75 * far + 0.25 * own) * mask).sum()
    expected.backward()
    torch.testing.assert_close(result.total, expected)
    assert result.count == float(mask.sum())
    for got, parameter in zip(grads, student.parameters(), strict=True):
        torch.testing.assert_close(got, parameter.grad, atol=2e-5, rtol=1e-4)


def load_student(module: LanguageModel) -> LanguageModel:
    from foundling.models.build import build

    return build(module.config, seed=9, zero_outputs=False)


def test_hidden_states_are_matched_through_a_projection(module: LanguageModel) -> None:
    """The projection gets a gradient, and a perfect student has no hidden loss left."""
    config = DistillConfig(hidden=2.0)
    wrapped = Student(module, module.config.dim)
    torch.nn.init.eye_(wrapped.projection.weight)
    objective = Distillation(Fixed(rows(module)), LocalTeacher(load_student(module)), None, config)
    result = objective.loss(wrapped, objective.batch(0, wrapped))
    same = Distillation(Fixed(rows(module)), LocalTeacher(module), None, config)
    assert float(same.loss(wrapped, same.batch(0, wrapped)).total) == pytest.approx(0, abs=1e-3)
    module.requires_grad_(True)
    result.total.backward()
    assert wrapped.projection.weight.grad.abs().sum() > 0
    module.zero_grad()


def test_kept_teacher_is_asked_once(module: LanguageModel, tmp_path: Path) -> None:
    teacher = LocalTeacher(module)
    kept, batch = KeptTeacher(teacher, 4, tmp_path), rows(module)
    first = kept.best(3, batch.tokens)
    exact = torch.log_softmax(module(batch.tokens), -1).topk(4)
    assert torch.equal(first[0], exact.indices)
    torch.testing.assert_close(first[1], exact.values, atol=4e-3, rtol=1e-3)
    kept.teacher = None  # type: ignore[assignment]
    assert torch.equal(kept.best(3, batch.tokens)[0], first[0])


def test_padded_scores_answers_only() -> None:
    batch = padded([([5, 6], [7, 8, 9]), ([5], [7])], context=10, pad=0)
    assert batch.tokens.tolist() == [[5, 6, 7, 8], [5, 0, 0, 0]]
    assert batch.targets.tolist() == [[6, 7, 8, 9], [7, 0, 0, 0]]
    assert batch.loss_mask.tolist() == [[0, 1, 1, 1], [1, 0, 0, 0]]
    assert padded([([5, 6], [7, 8, 9])], context=3, pad=0).targets.tolist() == [[6, 7, 8]]


def tokens_of(directory: Path, path: Path) -> Artifact:
    """A tokens artifact of bytes of Python."""
    text = Path(json.__file__).read_text()[:6000]
    tokenizer = Tokenizer.load(directory)
    documents = [[tokenizer.eot_id, *tokenizer.encode(text[i : i + 1500])] for i in range(0, 6000, 1500)]
    path.mkdir()
    for split, chosen in (("train", documents[:3]), ("validation", documents[3:])):
        np.concatenate([np.array(d, dtype="<u2") for d in chosen]).tofile(path / f"{split}.bin")
        np.save(path / f"{split}.index.npy", np.cumsum([0, *map(len, chosen)]))
        np.save(path / f"{split}.bytes.npy", np.array([1500] * len(chosen)))
    meta = {"vocab_size": 259, "eot_id": tokenizer.eot_id, "dtype": "uint16", "splits": {"train": {}, "validation": {}}}
    (path / "tokens.json").write_text(json.dumps(meta))
    tokenizer.save(path)
    return Artifact.outside(path, "tokens")


def run(config: dict[str, Any], where: Path, **inputs: Artifact) -> Path:
    draft = Draft(where / "files", where / "scratch", "0" * 16)
    for path in (draft.path, draft.scratch):
        path.mkdir(parents=True)
    small = {"steps": 3, "batch_size": 4, "context": 48, "preset": "foundling-1m", "validation_tokens": 500}
    build_distilled(parse(DistillConfig, small | config, "distill"), Inputs(inputs), draft)
    (where / "metrics.json").write_text(json.dumps(draft.metrics))
    return draft.path


@pytest.mark.parametrize("way", [{}, {"top_k": 4}, {"hidden": 1.0, "divergence": "reverse"}], ids=str)
def test_stage_learns_from_text(way: dict[str, Any], directory: Path, tmp_path: Path) -> None:
    """A loaded student, in bf16 and with random weights, that comes nearer to its teacher."""
    teacher = Artifact.outside(directory, "model")
    tokens = tokens_of(directory, tmp_path / "tokens")
    path = run(way | {"steps": 12, "log_every": 1}, tmp_path / "run", teacher=teacher, tokens=tokens)
    losses = [json.loads(line) for line in (path / "training.log.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in losses if "loss" in line]
    assert losses[-1] < losses[0]
    assert load(path).generate("import", max_tokens=2, ignore_eos=True).finish_reason == "length"
    assert "teacher_bits_per_byte" in json.loads((tmp_path / "run" / "metrics.json").read_text())


@pytest.mark.parametrize(
    "way", [{"own_text": 1.0}, {"on_policy": 1.0}, {"on_policy": 0.5, "divergence": "js"}], ids=str
)
def test_stage_learns_from_answers(way: dict[str, Any], directory: Path, tmp_path: Path) -> None:
    """Sequence-level, on-policy and mixed, on the task's prompts."""
    way = way | {"prompts": ["expressions"], "examples": 8, "max_tokens": 6, "context": 128}
    path = run(way, tmp_path, teacher=Artifact.outside(directory, "model"))
    assert load(path).module.config.n_layers == 5


def test_what_cannot_be_done_is_named(directory: Path, tmp_path: Path) -> None:
    teacher = Artifact.outside(directory, "model")
    cases: list[tuple[dict[str, Any], dict[str, Artifact], str]] = [
        ({}, {}, "needs one teacher"),
        ({}, {"teacher": teacher}, "needs something to learn on"),
        ({"on_policy": 0.5}, {"teacher": teacher}, "on_policy needs prompts"),
        ({"top_k": 4, "temperature": 2.0}, {"teacher": teacher}, "temperature must be 1"),
        ({"prompts": ["no.jsonl"]}, {"teacher": teacher}, "'no.jsonl' is no file"),
    ]
    for number, (config, inputs, message) in enumerate(cases):
        with pytest.raises(FoundlingError, match=message):
            run(config, tmp_path / str(number), **inputs)
