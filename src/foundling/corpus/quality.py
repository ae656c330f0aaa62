"""Model-based quality: a linear classifier on hashed words, and a perplexity filter by an n-gram model.

The classifier learns to tell the user's good examples from the corpus at large (Brown et al. 2020, appendix A; what
GPT-3, Llama and DCLM do with larger models). Both are trained before the blocks run, deterministically.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.sparse import csr_array
from scipy.stats import rankdata

from foundling.core.errors import FoundlingError
from foundling.corpus.baselines import KneserNey
from foundling.corpus.columns import FlatText
from foundling.corpus.config import CorpusConfig
from foundling.corpus.documents import Quarantine
from foundling.corpus.readers import registry
from foundling.corpus.rules.config import Perplexity, Quality
from foundling.corpus.rules.rule import Drop, Label, Rule
from foundling.corpus.sources import blocks, scoring_model
from foundling.corpus.words import word_hashes

_BUCKETS = 1 << 18
_RIDGE = 1e-3
Floats = NDArray[np.float64]
BitsOf = Callable[[Sequence[str]], Floats]


@dataclass(frozen=True)
class Classifier:
    """Logistic regression on hashed words and word pairs.

    Attributes:
        weights: (buckets,) float64.
        bias: added to every score.
        auc: area under the ROC curve on examples kept out of training.
        threshold: score under which documents go.
    """

    weights: Floats
    bias: float
    auc: float
    threshold: float

    def score(self, texts: pl.Series) -> Floats:
        """(texts,) log-odds that a text is one of the good ones."""
        return np.asarray(_features(texts) @ self.weights + self.bias)


def train_classifier(good: Sequence[str], other: Sequence[str], keep_share: float) -> Classifier:
    """Fit on four fifths of each kind; AUC and threshold come from the rest.

    Args:
        keep_share: share of the other texts that should pass.

    Raises:
        FoundlingError: fewer than ten examples of either kind.
    """
    for name, texts in (("good", good), ("corpus", other)):
        if len(texts) < 10:
            raise FoundlingError(f"the quality classifier has {len(texts)} {name} examples", "it needs at least ten")
    column = pl.Series([*good, *other], dtype=pl.String)
    labels = np.concatenate([np.ones(len(good)), np.zeros(len(other))])
    held = np.arange(len(column)) % 5 == 4
    features = _features(column)
    weights, bias = _fit(features[~held], labels[~held])
    scores = np.asarray(features[held] @ weights + bias)
    threshold = float(np.quantile(scores[labels[held] == 0], 1 - keep_share))
    return Classifier(weights, bias, roc_auc(scores, labels[held]), threshold)


def roc_auc(scores: Floats, labels: Floats) -> float:
    """Probability that a positive scores above a negative, ties half (the Mann-Whitney statistic)."""
    positive, negative = int(labels.sum()), int((1 - labels).sum())
    if not positive or not negative:
        return float("nan")
    ranks = rankdata(scores)
    return float((ranks[labels == 1].sum() - positive * (positive + 1) / 2) / (positive * negative))


def prepare(config: CorpusConfig, scorer: Callable[[str], BitsOf] | None = None) -> tuple[list[Rule], dict[str, Any]]:
    """Train what the config asks for: (rules that use it, numbers for the report).

    Args:
        scorer: makes, from a model directory, a function from texts to their bits per byte.
    """
    rules: list[Rule] = []
    report: dict[str, Any] = {}
    if config.quality:
        good, other = _texts(config, config.quality.good, config.quality), _texts(config, config.data, config.quality)
        model = train_classifier(good, other, config.quality.keep_share)
        rules += scored("quality", model.score, lowest=model.threshold)
        report["quality"] = {"auc": round(model.auc, 4), "threshold": round(model.threshold, 4), "good": len(good)}
    if config.perplexity:
        limits = config.perplexity
        bits_of, report["perplexity"] = _perplexity(config, limits, scorer)
        rules += scored(
            "bits_per_byte",
            lambda texts: bits_of(texts.to_list()),
            lowest=limits.min_bits_per_byte or None,
            highest=limits.max_bits_per_byte,
        )
    return rules, report


def _perplexity(
    config: CorpusConfig, limits: Perplexity, scorer: Callable[[str], BitsOf] | None
) -> tuple[BitsOf, dict[str, Any]]:
    """(the bits per byte of texts under the model or the n-grams, what the report says about it)."""
    if limits.model is None:
        reference = _texts(config, limits.reference, limits)
        return KneserNey(reference, limits.order).bits_of, {"order": limits.order, "reference_texts": len(reference)}
    if scorer is None:
        raise FoundlingError("perplexity.model needs a scorer", "this call of the stage was given none")
    return scorer(str(scoring_model(limits.model))), {"model": limits.model}


def scored(
    name: str, score: Callable[[pl.Series], Floats], lowest: float | None = None, highest: float | None = None
) -> list[Rule]:
    """Rules for any scorer: the score goes into each document's meta, and documents outside the limits go."""
    value = pl.col("meta").str.json_path_match(f"$.{name}").cast(pl.Float64)
    rules: list[Rule] = [Label(name, lambda d: pl.DataFrame({name: np.round(score(d["text"]), 4)}))]
    if lowest is not None:
        rules.append(Drop(f"{name}: too low", lambda d: d.select(value < lowest).to_series()))
    if highest is not None:
        rules.append(Drop(f"{name}: too high", lambda d: d.select(value > highest).to_series()))
    return rules


def _texts(config: CorpusConfig, data: tuple[str, ...], limits: Quality | Perplexity) -> list[str]:
    """Up to `examples` texts of the named files, evenly spread over their blocks."""
    work = blocks(config.model_copy(update={"data": data}))
    each = -(-limits.examples // max(len(work), 1))
    found: list[str] = []
    for block in work:
        found.extend(islice(_block_texts(config, block.pieces), each))
    return found[: limits.examples]


def _block_texts(config: CorpusConfig, pieces: Sequence[Any]) -> Iterator[str]:
    for piece in pieces:
        for documents in registry.load(piece.reader)(piece, config, Quarantine()):
            yield from documents["text"]


def _features(texts: pl.Series) -> csr_array:
    """(texts, buckets) presence of words and word pairs, each text of length one."""
    words = word_hashes(FlatText.of(texts))
    pairs, starts = words.windows(2)
    owner = np.repeat(np.arange(len(texts)), np.diff(words.offsets))
    rows = np.concatenate([owner, owner[starts]])
    columns = (np.concatenate([words.hashes, pairs]) & np.uint64(_BUCKETS - 1)).astype(np.int64)
    cells = np.unique(rows * _BUCKETS + columns)
    rows, columns = cells // _BUCKETS, cells % _BUCKETS
    counts = np.bincount(rows, minlength=len(texts))
    return csr_array((1 / np.sqrt(counts[rows]), (rows, columns)), shape=(len(texts), _BUCKETS))


def _fit(features: csr_array, labels: Floats) -> tuple[Floats, float]:
    """Ridge-penalised logistic regression by L-BFGS; both kinds weigh the same."""
    balance = np.where(labels == 1, 0.5 / labels.sum(), 0.5 / (1 - labels).sum())
    sign = 2 * labels - 1

    def loss(parameters: Floats) -> tuple[float, Floats]:
        weights, bias = parameters[:-1], parameters[-1]
        margin = sign * (features @ weights + bias)
        value = balance @ np.logaddexp(0, -margin) + _RIDGE * weights @ weights / 2
        pull = -balance * sign / (1 + np.exp(np.minimum(margin, 500)))
        return float(value), np.append(features.T @ pull + _RIDGE * weights, pull.sum())

    found = minimize(loss, np.zeros(features.shape[1] + 1), jac=True, method="L-BFGS-B", options={"maxiter": 100}).x
    return found[:-1], float(found[-1])
