"""The stage `reward`: from pairs of answers to a model whose score says how good an answer is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from foundling.core.artifacts import Draft
from foundling.core.errors import FoundlingError
from foundling.core.hardware import device
from foundling.core.rng import seed_for
from foundling.core.stages import Inputs
from foundling.evaluation.statistics import wilson
from foundling.models.adapters import merge
from foundling.models.checkpoint import load_module
from foundling.models.language_model import LanguageModel
from foundling.post_training.config import EXPRESSIONS, RewardConfig
from foundling.post_training.data import Message, existing_file, read_rows, sources
from foundling.post_training.group_packing import Group, pack_groups
from foundling.post_training.heads import freeze_body, last_scores, score_texts, train_head, whole, with_head
from foundling.post_training.own_samples import graded_pairs, sample_answers, training_prompts
from foundling.post_training.pairs import EncodedPair, Pair, as_pair, encode_pairs
from foundling.post_training.preference import bradley_terry, pointwise
from foundling.post_training.preferring import numbers_of
from foundling.post_training.rewards import Prompted, Score, as_prompted, is_prompted
from foundling.post_training.tuning import load_base, prepare, tune, tuned_card, write_tuned
from foundling.tokenization.chat import render
from foundling.tokenization.tokenizer import Tokenizer
from foundling.training.batch import Batch
from foundling.training.objective import LossSum

BINS = 10


class RewardModelling:
    """Comparisons as a logistic model of the difference of scores, or each answer as good or bad by itself."""

    def __init__(self, groups: Sequence[Group], config: RewardConfig, pad_id: int) -> None:
        self.groups, self.config, self.pad_id = groups, config, pad_id

    def batch(self, step: int, model: nn.Module | None = None) -> Batch:
        """The pairs of a step."""
        chosen = numbers_of(step, self.config.batch_size, len(self.groups), self.config.seed)
        return pack_groups([self.groups[i] for i in chosen], self.config.context, self.pad_id)

    def loss(self, model: Any, batch: Batch) -> LossSum:
        """Summed over pairs; the count is their number."""
        good, bad = pair_scores(model, batch)
        compare = self.config.loss == "bradley-terry"
        losses = bradley_terry(good, bad, self.config.margin) if compare else pointwise(good, bad)
        if self.config.centre:
            losses = losses + self.config.centre * (good + bad) ** 2
        count = len(losses)
        metrics: dict[str, tuple[float | Tensor, float | Tensor]] = {
            "accuracy": ((good > bad).sum(), count),
            "margin": ((good - bad).detach().sum(), count),
        }
        return LossSum(losses.sum(), count, metrics)


def pair_scores(model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
    """Scores of the chosen and the rejected answers of a batch of packed pairs: (pairs,) each."""
    present = batch.extra["present"].bool()  # (rows, slots)
    scores = last_scores(model, batch, 2 * present.shape[1])[..., 0]
    both = scores.view(batch.rows, -1, 2)[present]
    return both[:, 0], both[:, 1]


def build_reward_model(config: RewardConfig, inputs: Inputs, draft: Draft) -> None:
    """Train a reward model and write it as a ...ForSequenceClassification with one label.

    Raises:
        FoundlingError: rows that are no pairs, or too few to hold some out.
    """
    base = inputs["base"]
    language, tokenizer = load_base(base)
    counts: Counter[str] = Counter()
    pairs = _pairs(config, sources(config, inputs), language, tokenizer, draft, counts)
    encoded = encode_pairs(pairs, tokenizer, config.context - 2, config.too_long, config.invalid, counts)
    train, held_out = split(encoded, config.held_out)
    if not train or not held_out:
        raise FoundlingError(f"{len(encoded)} pairs are too few to train on some and hold some out")
    module = with_head(language, 1, config.seed)
    if config.freeze:
        freeze_body(module)
    elif config.adapter is not None:
        prepare(module, config)
        train_head(module)
    steps = config.steps or max(1, round(len(train) * config.epochs / config.batch_size))
    resolved = config.model_copy(update={"steps": steps})
    objective = RewardModelling(_groups(train, tokenizer), resolved, tokenizer.pad_id)
    tune(module, objective, resolved, base, draft, "reward", module.config)
    merge(module)
    quality = agreement(module, _groups(held_out, tokenizer), config.context, tokenizer.pad_id)
    draft.metrics |= {"pairs": len(train), "skipped": dict(counts), **quality}
    card = tuned_card(
        "Reward model",
        f"Scores an answer by the last token of the chat. Trained on {len(train):,} pairs with the {config.loss} loss.",
        resolved,
        inputs,
        {"On held-out pairs": {name: float(quality[name]) for name in ("held_out_accuracy", "calibration_error")}},
        ("It has learned what its pairs prefer, their mistakes included; optimised against too far, it is fooled.",),
    )
    write_tuned(module, tokenizer, resolved.model_copy(update={"adapter": None}), base, draft, card)


def agreement(module: LanguageModel, groups: Sequence[Group], context: int, pad_id: int) -> dict[str, Any]:
    """How often the chosen answer scores higher, with its interval, and how far σ(difference) is from that."""
    differences = []
    where = next(module.parameters()).device
    with torch.inference_mode():
        for start in range(0, len(groups), 32):
            part = pack_groups(groups[start : start + 32], context, pad_id)
            good, bad = pair_scores(module.eval(), part.to(where))
            differences.append(good - bad)
    difference = torch.cat(differences)
    right = int((difference > 0).sum())
    interval = wilson(right, len(difference))
    return {
        "held_out_pairs": len(difference),
        "held_out_accuracy": right / len(difference),
        "held_out_accuracy_low": interval.low,
        "held_out_accuracy_high": interval.high,
        "calibration_error": calibration_error(difference),
    }


def calibration_error(differences: Tensor) -> float:
    """Expected calibration error of P(chosen is better) = σ(difference), over ten bins of confidence.

    Guo et al. 2017, "On calibration of modern neural networks", arXiv:1706.04599, eq. 3: confidence is that of
    whichever answer the model prefers, and it is right if that is the chosen one.
    """
    confidence = torch.sigmoid(differences.abs())
    right = (differences > 0).float()
    bins = ((confidence - 0.5) * 2 * BINS).long().clamp(max=BINS - 1)
    error = 0.0
    for number in range(BINS):
        mine = bins == number
        if mine.any():
            error += float(mine.float().mean() * (confidence[mine].mean() - right[mine].mean()).abs())
    return error


def load_ensemble(directories: Sequence[Path], how: str) -> Score:
    """Several reward models as one: their mean, the least, or (cautious) the mean less the standard deviation.

    Where its members disagree an ensemble is less easily fooled than each of them (Coste et al. 2023,
    arXiv:2310.02743).
    """
    members = [load_scorer(directory) for directory in directories]

    def score(chats: Sequence[Sequence[Message]]) -> list[float]:
        each = torch.tensor([member(chats) for member in members])  # (members, chats)
        if how == "worst":
            combined = each.amin(0)
        else:
            combined = each.mean(0) - (each.std(0, correction=0) if how == "cautious" else 0)
        return [float(value) for value in combined]

    return score


def load_scorer(directory: Path) -> Score:
    """A reward model's directory as a function from chats to scores.

    Raises:
        FoundlingError: the directory is no reward model.
    """
    module, tokenizer = load_module(directory).to(device()), Tokenizer.load(directory)
    if module.config.head.kind != "labels" or module.config.head.n_labels != 1:
        raise FoundlingError(f"{directory} is no reward model", "a classifier with one label was expected")

    def score(chats: Sequence[Sequence[Message]]) -> list[float]:
        ids = [render(tokenizer, chat).ids for chat in chats]
        found: list[float] = score_texts(module, ids, tokenizer.pad_id)[:, 0].tolist()
        return found

    return score


def split(pairs: Sequence[EncodedPair], share: float) -> tuple[list[EncodedPair], list[EncodedPair]]:
    """Training and held-out pairs; pairs of one prompt stay together."""
    train: list[EncodedPair] = []
    held_out: list[EncodedPair] = []
    for pair in pairs:
        prompt = pair.chosen.ids[: list(pair.chosen.mask).index(True)]
        mine = held_out if seed_for("held out", *prompt) % 1000 < share * 1000 else train
        mine.append(pair)
    return train, held_out


def _pairs(
    config: RewardConfig,
    data: Sequence[str],
    module: LanguageModel,
    tokenizer: Tokenizer,
    draft: Draft,
    counts: Counter[str],
) -> list[Pair]:
    def convert(row: Any, where: str) -> Pair | Prompted:
        return as_prompted(row, where) if is_prompted(row) else as_pair(row, where)

    files = [existing_file(Path(entry).expanduser()) for entry in data if entry != EXPRESSIONS]
    rows = [row for path in files for row in read_rows(path, convert, config.invalid, counts)]
    pairs = [row for row in rows if isinstance(row, Pair)]
    prompts = [row for row in rows if isinstance(row, Prompted)]
    if EXPRESSIONS in data:
        prompts += training_prompts(config.examples, config.seed, "reward")
    if prompts:
        saved = draft.scratch / "answers.jsonl"
        answers = sample_answers(module, tokenizer, prompts, config, saved)
        pairs += graded_pairs(answers, config.pairs_per_prompt, config.seed)
    return pairs


def _groups(pairs: Sequence[EncodedPair], tokenizer: Tokenizer) -> list[Group]:
    return [(whole(p.chosen, tokenizer.pad_id), whole(p.rejected, tokenizer.pad_id)) for p in pairs]
