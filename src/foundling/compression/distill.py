"""The stage `distill`: a small model learns a large one's predictions."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foundling.compression.answers import Answers, read_chats, teacher_answers
from foundling.compression.distill_config import DistillConfig
from foundling.compression.divergence import between, bucketed, divergence
from foundling.compression.draft_head import build_draft_head
from foundling.compression.teachers import KeptTeacher, LocalTeacher, RemoteTeacher, context_of
from foundling.core.artifacts import Artifact, Draft
from foundling.core.errors import FoundlingError
from foundling.core.hardware import device
from foundling.core.stages import Inputs
from foundling.inference.remote import connect
from foundling.models.build import build
from foundling.models.checkpoint import load_module, save_module
from foundling.models.language_model import LanguageModel, require_left_to_right
from foundling.models.presets import preset
from foundling.models.quantized import refuse_to_train_compressed
from foundling.tokenization.tokenizer import Tokenizer
from foundling.training.batch import Batch
from foundling.training.bits_per_byte import HeldOut
from foundling.training.loss import chunked_loss
from foundling.training.model_card import model_card
from foundling.training.objective import LossSum, Objective
from foundling.training.objectives.causal import Causal
from foundling.training.preparation import PROBE
from foundling.training.token_files import TokenSplit
from foundling.training.trainer import Trainer

LOG = "training.log.jsonl"


class Student(nn.Module):
    """A model with a projection from its hidden states to the teacher's, which is trained with it and then dropped."""

    def __init__(self, model: LanguageModel, width: int) -> None:
        super().__init__()
        self.model, self.projection = model, nn.Linear(model.config.dim, width, bias=False)
        nn.init.normal_(self.projection.weight, std=model.config.dim**-0.5)


class Distillation:
    """The divergence of the student's next-token predictions from the teacher's.

    Args:
        source: gives the batches.
        teacher: None where nothing but the batches is learned from (a teacher's answers: sequence-level distillation,
            Kim & Rush 2016, arXiv:1606.07947).
        kept: gives the teacher's likeliest tokens, in place of all of its predictions.
    """

    def __init__(
        self, source: Objective | Answers, teacher: LocalTeacher | None, kept: KeptTeacher | None, config: DistillConfig
    ) -> None:
        self.source, self.teacher, self.kept, self.config = source, teacher, kept, config

    def batch(self, step: int, model: nn.Module | None = None) -> Batch:
        """The source's, with the teacher's likeliest tokens where they are kept."""
        batch = self.source.batch(step, model.model if isinstance(model, Student) else model)
        if self.kept is not None:
            batch.extra["ids"], batch.extra["logprobs"] = self.kept.best(step, batch.tokens)
        return batch

    def loss(self, model: Any, batch: Batch) -> LossSum:
        """Summed over the scored tokens, in nats; the count is their number."""
        student = model.model if isinstance(model, Student) else model
        hidden = student.hidden(batch.tokens, context_of(batch)).flatten(0, 1)
        scored = batch.loss_mask.flatten().nonzero().squeeze(1)
        targets, known = batch.targets.flatten()[scored], None
        if self.teacher is not None and self.kept is None:
            known = self.teacher.hidden(batch).flatten(0, 1)[scored]
        extra = {name: value.flatten(0, 1)[scored] for name, value in batch.extra.items()}

        def of_chunk(logits: Tensor, part: slice) -> Tensor:
            more = {name: value[part] for name, value in extra.items()}
            return self._of_chunk(logits, targets[part], None if known is None else known[part], more)

        total = chunked_loss(hidden[scored], student, of_chunk)
        if self.config.hidden and isinstance(model, Student):
            assert known is not None
            near = F.cosine_similarity(model.projection(hidden[scored]).float(), known.float(), dim=-1)
            total = total + self.config.hidden * (1 - near).sum()
        return LossSum(total, float(len(scored)))

    def _of_chunk(self, logits: Tensor, targets: Tensor, taught: Tensor | None, extra: dict[str, Tensor]) -> Tensor:
        config = self.config
        own = F.cross_entropy(logits.float(), targets, reduction="sum") if config.own_text else logits.new_zeros(())
        if config.own_text == 1:
            return own
        if taught is not None:
            assert self.teacher is not None
            with torch.no_grad():
                theirs = self.teacher.module.head(taught)
            far = divergence(logits, theirs, config.divergence, config.js_weight, config.temperature)
        else:
            far = between(*bucketed(logits, extra["ids"], extra["logprobs"]), config.divergence, config.js_weight)
        return config.own_text * own + (1 - config.own_text) * far.sum()


def build_distilled(config: DistillConfig, inputs: Inputs, draft: Draft) -> None:
    """Train a student, or a draft head for the teacher, and write it as a Hugging Face directory.

    Raises:
        FoundlingError: no teacher, nothing to learn on, models of different vocabularies, or what the loop refuses.
    """
    given, tokens, base = inputs.get("teacher"), inputs.get("tokens"), inputs.get("base")
    where = _tokenizer_of(config, given, tokens, base)
    tokenizer = Tokenizer.load(where)
    remote = connect(config.teacher_url) if config.teacher_url else None
    teacher = None if given is None else LocalTeacher(_teacher(given.path, config))
    if config.draft_tokens:
        if base is not None:
            raise FoundlingError("a draft head has no base", "it is trained for the teacher", "Leave --base out")
        assert given is not None and teacher is not None
        source, _, _ = _source(config, tokens, teacher, remote, tokenizer, draft)
        build_draft_head(config, given, teacher, source, draft)
        return
    student = _student(config, base, tokenizer, teacher)
    source, held_out, kept = _source(config, tokens, teacher, remote, tokenizer, draft)
    module: nn.Module = student
    if config.hidden:
        assert teacher is not None
        torch.manual_seed(config.seed)
        module = Student(student, teacher.module.config.dim).to(device())
    trainer = Trainer(
        module,
        Distillation(source, None if config.own_text == 1 else teacher, kept, config),
        config,
        draft.scratch,
        log=draft.scratch / LOG,
        evaluate=None if held_out is None else lambda m: held_out.score(m.model if isinstance(m, Student) else m),
        data=" ".join(artifact.key for _, artifact in inputs.items()) + config.teacher_url,
        flops_per_token=student.config.flops_per_token(config.context, training=True),
        title="distill",
    )
    summary = trainer.fit()
    draft.seeds["distill"] = config.seed
    draft.metrics |= {
        "parameters": student.config.n_parameters(),
        "steps": summary.steps,
        "tokens": summary.tokens,
        "training_loss": summary.loss,
        **{f"validation_{name}": value for name, value in summary.evaluation.items()},
    }
    if teacher is not None:
        draft.metrics["teacher_parameters"] = teacher.module.config.n_parameters()
        if held_out is not None:
            with torch.no_grad():
                scores = held_out.score(teacher.module.float())
            draft.metrics["teacher_bits_per_byte"] = scores["bits_per_byte"]
    draft.timings |= {"tokens_per_s": summary.tokens_per_s, "mfu": summary.mfu, "training_seconds": summary.seconds}
    save_module(student.eval(), draft.path)
    tokenizer.save(draft.path)
    (draft.path / "README.md").write_text(_card(config, draft, inputs), encoding="utf-8")
    shutil.copyfile(draft.scratch / LOG, draft.path / LOG)


def _tokenizer_of(
    config: DistillConfig, teacher: Artifact | None, tokens: Artifact | None, base: Artifact | None
) -> Path:
    if (teacher is None) == (not config.teacher_url):
        raise FoundlingError(
            "distill needs one teacher", fix="Give --teacher MODEL, or --teacher-url with an OpenAI-compatible URL"
        )
    if (tokens is None) == (not config.prompts):
        raise FoundlingError(
            "distill needs something to learn on",
            "either text or prompts",
            "Give --tokens (or --data FILES), or --prompts",
        )
    found = teacher or base or tokens
    if found is None:
        raise FoundlingError("a student of a URL needs a tokenizer", "", "Give --base MODEL or --tokens")
    return found.path


def _teacher(path: Path, config: DistillConfig) -> LanguageModel:
    module = load_module(path, torch.float32 if config.precision == "fp32" else torch.bfloat16).to(device())
    require_left_to_right(module.config)
    return module


def _student(
    config: DistillConfig, base: Artifact | None, tokenizer: Tokenizer, teacher: LocalTeacher | None
) -> LanguageModel:
    """The base model, or a preset with random weights and the teacher's vocabulary."""
    if base is None:
        size = teacher.module.config.vocab_size if teacher else tokenizer.vocab_size
        shape = preset(config.preset, vocab_size=size, max_positions=max(2048, config.context))
        ids = {"eos_token_id": tokenizer.eot_id, "pad_token_id": tokenizer.pad_id, "bos_token_id": tokenizer.bos_id}
        return build(shape.model_copy(update=ids), config.seed).to(device())
    module = load_module(base.path).to(device())
    refuse_to_train_compressed(module)
    require_left_to_right(module.config)
    same = Tokenizer.load(base.path).encode(PROBE) == tokenizer.encode(PROBE)
    if not same or (teacher is not None and teacher.module.config.vocab_size != module.config.vocab_size):
        raise FoundlingError(
            "teacher and student have different vocabularies",
            f"the student's has {module.config.vocab_size} tokens",
            "Choose a student with the teacher's tokenizer, or learn its answers as text (foundling sft)",
        )
    return module


def _source(
    config: DistillConfig,
    tokens: Artifact | None,
    teacher: LocalTeacher | None,
    remote: Any,
    tokenizer: Tokenizer,
    draft: Draft,
) -> tuple[Objective | Answers, HeldOut | None, KeptTeacher | None]:
    if tokens is None:
        chats = read_chats(config)
        speaker = teacher.module if teacher is not None else remote
        written: list[list[int]] = []
        if config.on_policy < 1:
            written = teacher_answers(speaker, tokenizer, chats, config, draft.scratch / "answers.json")
        return Answers(chats, written, tokenizer, config), None, None
    if Tokenizer.load(tokens.path).encode(PROBE) != tokenizer.encode(PROBE):
        raise FoundlingError(
            "the tokens were made with another tokenizer than the teacher's",
            fix="Tokenize the corpus with the teacher as the `tokenizer` input",
        )
    source = Causal(TokenSplit(tokens.path, "train"), config.context, config.batch_size, config.seed)
    held_out = HeldOut(TokenSplit(tokens.path, "validation"), config.context, config.validation_tokens)
    if not config.top_k:
        return source, held_out, None
    keeper = RemoteTeacher(remote, tokenizer) if teacher is None else teacher
    return source, held_out, KeptTeacher(keeper, config.top_k, draft.scratch / "best")


def _card(config: DistillConfig, draft: Draft, inputs: Inputs) -> str:
    metrics = draft.metrics
    results = {"Training loss (nats a token)": {"last steps": metrics["training_loss"]}}
    if "validation_bits_per_byte" in metrics:
        rows = {"this model": metrics["validation_bits_per_byte"]}
        if "teacher_bits_per_byte" in metrics:
            rows["its teacher"] = metrics["teacher_bits_per_byte"]
        results = {"Bits per byte on held-out text (lower is better)": rows}
    learned = "answers to prompts" if config.prompts else "text"
    return model_card(
        "Distilled language model",
        f"A model of {metrics['parameters']:,} parameters that learned a larger model's predictions on {learned}.",
        inputs=inputs,
        more_inputs={"teacher": config.teacher_url} if config.teacher_url else {},
        recipe=json.loads(config.model_dump_json()),
        results=results,
        limits=("It has its teacher's errors, and more of its own.",),
    )
