"""The stage `classify`: a language model's body under a new head, for classes of texts, numbers, or classes of words.

Feature-based transfer trains the head alone (`freeze`), fine-tuning everything, an adapter something between. The head
reads the last token of a text, as Hugging Face's classifiers of decoders do, or the last token of every word.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foundling.core.artifacts import Draft
from foundling.core.errors import FoundlingError
from foundling.core.hardware import device
from foundling.core.rng import seed_for
from foundling.core.stages import Inputs
from foundling.evaluation.statistics import Interval, bootstrap_mean, bootstrap_ratio, wilson
from foundling.models.adapters import merge
from foundling.models.checkpoint import load_module
from foundling.models.context import Context
from foundling.models.language_model import LanguageModel
from foundling.post_training.config import ClassifyConfig
from foundling.post_training.data import checked_messages, existing_file, read_rows
from foundling.post_training.group_packing import pack_groups
from foundling.post_training.heads import freeze_body, train_head, with_head
from foundling.post_training.packing import Encoded
from foundling.post_training.preferring import numbers_of
from foundling.post_training.tuning import load_base, prepare, tune, tuned_card, write_tuned
from foundling.tokenization.chat import render
from foundling.tokenization.tokenizer import Tokenizer
from foundling.training.batch import Batch
from foundling.training.objective import LossSum

LABELS = "labels.json"
Label = str | float


@dataclass(frozen=True)
class LabelledText:
    """A text as token ids with a label at some of them (the last, or each word's last) and None at the others."""

    ids: list[int]
    labels: list[Label | None]
    source: str


@dataclass(frozen=True)
class LabelSpace:
    """What the head's scores mean: classes in their order, or one number, (label - mean) / scale."""

    task: str
    classes: list[str]
    mean: float = 0.0
    scale: float = 1.0

    def value(self, label: Label) -> float:
        """The class's number, or the standardised number."""
        return (float(label) - self.mean) / self.scale if self.task == "numbers" else self.classes.index(str(label))

    def label(self, scores: Tensor) -> Label:
        """The label that scores (labels,) stand for."""
        return (
            float(scores[0]) * self.scale + self.mean if self.task == "numbers" else self.classes[int(scores.argmax())]
        )


class HeadTuning:
    """Cross entropy of classes, or squared error of standardised numbers, at the tokens that carry labels."""

    def __init__(self, texts: Sequence[LabelledText], space: LabelSpace, config: ClassifyConfig, pad_id: int) -> None:
        self.texts, self.space, self.config, self.pad_id = texts, space, config, pad_id

    def batch(self, step: int, model: nn.Module | None = None) -> Batch:
        """The texts of a step, several to a row."""
        chosen = numbers_of(step, self.config.batch_size, len(self.texts), self.config.seed)
        return pack([self.texts[i] for i in chosen], self.space, self.config.context, self.pad_id)

    def loss(self, model: Any, batch: Batch) -> LossSum:
        """Summed over labels; the count is their number."""
        scores, wanted = label_scores(model, batch), batch.extra["label"][batch.loss_mask.bool()]
        if self.space.task == "numbers":
            return LossSum(F.mse_loss(scores[:, 0], wanted, reduction="sum"), len(wanted))
        right = (scores.argmax(1) == wanted.long()).sum()
        total = F.cross_entropy(scores, wanted.long(), reduction="sum")
        return LossSum(total, len(wanted), {"accuracy": (right, len(wanted))})


def pack(texts: Sequence[LabelledText], space: LabelSpace, context: int, pad_id: int) -> Batch:
    """Texts in rows; the loss mask is 1 where a label is, and `extra["label"]` (rows, time) holds its value there."""
    groups, places = [], []
    values: list[float] = []
    for text in texts:
        mask = [label is not None for label in text.labels]
        numbers = []
        for label in text.labels:
            numbers.append(len(values))
            if label is not None:
                values.append(space.value(label))
        groups.append((Encoded([*text.ids, pad_id], [False, *mask], text.source),))
        places.append((Encoded([0, *numbers], [False, *mask], text.source),))  # packed alike: which value is where
    batch, where = pack_groups(groups, context, pad_id), pack_groups(places, context, 0)
    scored = batch.loss_mask.bool()
    labels = torch.zeros(batch.tokens.shape)
    labels[scored] = torch.tensor(values, dtype=torch.float32)[where.targets[scored]]
    batch.extra["label"] = labels
    return batch


def label_scores(model: Any, batch: Batch) -> Tensor:
    """The head's scores at the labelled tokens, in the batch's order: (labels in the batch, scores)."""
    assert batch.segments is not None
    hidden = model.hidden(batch.tokens, Context.packed(batch.segments))
    scores: Tensor = model.head(hidden[batch.loss_mask.bool()]).float()
    return scores


class Classifier:
    """A model made by `classify`, as a function from texts, chats or lists of words to labels."""

    def __init__(self, directory: Path) -> None:
        self.module, self.tokenizer = load_module(directory).to(device()), Tokenizer.load(directory)
        try:
            self.space = LabelSpace(**json.loads((directory / LABELS).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise FoundlingError(f"{directory} was not made by `classify`", f"{LABELS}: {error}") from None

    def __call__(self, inputs: Sequence[Any]) -> list[Any]:
        """A label for each text (or messages), a list of them for each list of words."""
        texts = [encode(self.tokenizer, one, 0.0, self.space.task, "input") for one in inputs]
        found = predict(self.module, texts, self.space, self.tokenizer.pad_id)
        return found if self.space.task == "words" else [labels[0] for labels in found]


def predict(module: LanguageModel, texts: Sequence[LabelledText], space: LabelSpace, pad_id: int) -> list[list[Label]]:
    """A label for every place of each text that has one, whatever it is."""
    found: list[list[Label]] = []
    module.eval()
    blank = LabelSpace("numbers", [])
    for text in texts:
        places = LabelledText(text.ids, [None if label is None else 0.0 for label in text.labels], text.source)
        with torch.inference_mode():
            batch = pack([places], blank, len(text.ids), pad_id)
            scores = label_scores(module, batch.to(next(module.parameters()).device)).cpu()
        found.append([space.label(one) for one in scores])
    return found


def build_classifier(config: ClassifyConfig, inputs: Inputs, draft: Draft) -> None:
    """Train a head on labelled rows and write it as ...ForSequenceClassification, with its labels.

    Raises:
        FoundlingError: rows without a label, texts that are too long, too few to hold some out, a single class.
    """
    base = inputs["base"]
    language, tokenizer = load_base(base)
    counts: Counter[str] = Counter()
    train, held_out = _split(_texts(config, tokenizer, counts), config)
    space = _space(train, config)
    known = [text for text in held_out if space.task == "numbers" or set(_given(text)) <= set(space.classes)]
    counts["held out with a label never trained"] += len(held_out) - len(known)
    module = with_head(language, max(1, len(space.classes)), config.seed)
    if config.freeze:
        freeze_body(module)
    elif config.adapter is not None:
        prepare(module, config)
        train_head(module)
    steps = config.steps or max(1, round(len(train) * config.epochs / config.batch_size))
    resolved = config.model_copy(update={"steps": steps})
    tune(module, HeadTuning(train, space, resolved, tokenizer.pad_id), resolved, base, draft, "classify", module.config)
    merge(module)
    quality = measured(predict(module, known, space, tokenizer.pad_id), [_given(text) for text in known], train, space)
    draft.metrics |= {"examples": len(train), "held_out": len(known), "skipped": dict(+counts), **quality}
    classes = f" Classes: {', '.join(space.classes)}." if space.classes else ""
    card = tuned_card(
        "Classifier",
        f"Reads {config.task} off a text. Trained on {len(train):,} examples.{classes}",
        resolved,
        inputs,
        {"On held-out examples": {name: value for name, value in quality.items() if isinstance(value, float)}},
        ("It knows the labels of its examples and no others.",),
    )
    write_tuned(module, tokenizer, resolved.model_copy(update={"adapter": None}), base, draft, card)
    draft.file(LABELS).write_text(json.dumps(asdict(space), indent=2) + "\n", encoding="utf-8")


def measured(
    found: Sequence[Sequence[Label]], truth: Sequence[Sequence[Label]], train: Sequence[LabelledText], space: LabelSpace
) -> dict[str, float]:
    """Accuracy (numbers: mean absolute error) with its 95% interval, beside the best constant answer."""
    pairs = [(f, t) for mine, theirs in zip(found, truth, strict=True) for f, t in zip(mine, theirs, strict=True)]
    if space.task == "numbers":
        errors = [abs(float(f) - float(t)) for f, t in pairs]
        interval: Interval = bootstrap_mean(errors, seed=("classify",))
        constant = sum(abs(float(t) - space.mean) for _, t in pairs) / len(pairs)
        name, value = "mean_absolute_error", sum(errors) / len(errors)
    else:
        right = sum(f == t for f, t in pairs)
        each = [
            sum(f == t for f, t in zip(mine, theirs, strict=True)) for mine, theirs in zip(found, truth, strict=True)
        ]
        sizes = [len(theirs) for theirs in truth]  # the words of a text are not independent: texts are resampled
        interval = bootstrap_ratio(each, sizes) if space.task == "words" else wilson(right, len(pairs))
        common = Counter(label for text in train for label in _given(text)).most_common(1)[0][0]
        constant = sum(t == common for _, t in pairs) / len(pairs)
        name, value = "accuracy", right / len(pairs)
    return {name: value, f"{name}_low": interval.low, f"{name}_high": interval.high, f"{name}_constant": constant}


def encode(tokenizer: Tokenizer, given: Any, label: Any, task: str, where: str) -> LabelledText:
    """A text, messages or a list of words as token ids with labels.

    Raises:
        FoundlingError: naming `where` and what is wrong.
    """
    if task == "words":
        if not isinstance(given, list) or not given or not all(isinstance(w, str) and w for w in given):
            raise FoundlingError(f"{where} has no list of words", "a row has `words` and as many `labels`")
        each = list(label) if isinstance(label, list) else [label] * len(given)
        if len(each) != len(given):
            raise FoundlingError(f"{where}: {len(given)} words and {len(each)} labels", "each word has one label")
        parts = [tokenizer.encode(("" if number == 0 else " ") + word) for number, word in enumerate(given)]
        labels = [mark for part, one in zip(parts, each, strict=True) for mark in [*[None] * (len(part) - 1), one]]
        return LabelledText([i for part in parts for i in part], labels, where)
    if isinstance(given, str) and given.strip():
        ids = tokenizer.encode(given)
    elif isinstance(given, list) and given:
        ids = render(tokenizer, given).ids
    else:
        raise FoundlingError(f"{where} holds no text", "a row has `text`, `prompt` or `messages`, and `label`")
    return LabelledText(ids, [*[None] * (len(ids) - 1), label], where)


def _texts(config: ClassifyConfig, tokenizer: Tokenizer, counts: Counter[str]) -> list[LabelledText]:
    def convert(row: Any, where: str) -> LabelledText:
        if not isinstance(row, dict):
            raise FoundlingError(f"{where} is not an object", "a row has a text and a label")
        if config.task == "words":
            label = [_label(one, config.task, where) for one in row.get("labels") or ()]
            return encode(tokenizer, row.get("words") or row.get("tokens"), label, config.task, where)
        given = row.get("text")
        if given is None:
            asked = row.get("messages") or row.get("prompt")
            given = [{"role": "user", "content": asked}] if isinstance(asked, str) else asked
            if given:
                checked_messages([*given, {"role": "assistant", "content": "-"}], where)
        return encode(tokenizer, given, _label(row.get("label"), config.task, where), config.task, where)

    found = []
    for entry in config.data:
        for text in read_rows(existing_file(Path(entry).expanduser()), convert, config.invalid, counts):
            if len(text.ids) > config.context:
                if config.too_long == "refuse":
                    what = f"{text.source} has {len(text.ids)} tokens, more than the context of {config.context}"
                    raise FoundlingError(what, fix="Set a larger context, or too_long to 'skip' or 'truncate'")
                counts[f"longer than the context: {config.too_long}"] += 1
                if config.too_long == "skip":
                    continue
                text = _ending(text, config)
            found.append(text)
    return found


def _ending(text: LabelledText, config: ClassifyConfig) -> LabelledText:
    """The part of a long text that fits: of words the first ones, else the end, where the label is."""
    part = slice(config.context) if config.task == "words" else slice(-config.context, None)
    return LabelledText(text.ids[part], text.labels[part], text.source)


def _label(label: Any, task: str, where: str) -> Label:
    if task == "numbers":
        if isinstance(label, bool) or not isinstance(label, (int, float)) or not math.isfinite(label):
            raise FoundlingError(f"{where}: the label {label!r}", "a label is a finite number")
        return float(label)
    if not isinstance(label, (str, int)) or label == "":
        raise FoundlingError(f"{where}: the label {label!r}", "a label is a name")
    return str(label)


def _split(texts: Sequence[LabelledText], config: ClassifyConfig) -> tuple[list[LabelledText], list[LabelledText]]:
    """Training and held-out texts by a hash of the text, so that equal ones never stand on both sides."""
    held = [seed_for("classify", *text.ids) % 1000 < config.held_out * 1000 for text in texts]
    train = [text for text, out in zip(texts, held, strict=True) if not out]
    held_out = [text for text, out in zip(texts, held, strict=True) if out]
    if not train or not held_out:
        raise FoundlingError(f"{len(texts)} texts are too few to train on some and hold some out")
    return train, held_out


def _space(train: Sequence[LabelledText], config: ClassifyConfig) -> LabelSpace:
    labels = [label for text in train for label in _given(text)]
    if config.task == "numbers":
        values = torch.tensor(labels, dtype=torch.float64)
        return LabelSpace("numbers", [], float(values.mean()), float(values.std(correction=0).clamp(min=1e-12)))
    classes = sorted({str(label) for label in labels})
    if len(classes) < 2:
        raise FoundlingError(f"all texts have the label {classes[0]!r}", "a classifier needs two classes at least")
    return LabelSpace(config.task, classes)


def _given(text: LabelledText) -> list[Label]:
    return [label for label in text.labels if label is not None]
