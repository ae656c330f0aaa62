"""A language model as the perplexity filter of a corpus; wired into the stage `corpus` by the pipeline."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from foundling.evaluation.answering import LocalAnswerer
from foundling.evaluation.requests import Rolling, RollingAnswer
from foundling.inference.model import load

WINDOW_TOKENS = 512


def bits_per_byte_of(model: str) -> Callable[[Sequence[str]], NDArray[np.float64]]:
    """A function from texts to each one's bits per byte under a model; blocks of a corpus may call it from threads.

    Args:
        model: a model directory.
    """
    loaded = load(model)
    most = loaded.module.config.max_positions
    answerer = LocalAnswerer(loaded.engine, loaded.tokenizer, most, min(WINDOW_TOKENS, most))
    lock = Lock()

    def bits_of(texts: Sequence[str]) -> NDArray[np.float64]:
        with lock:  # the engine serves one caller at a time
            answers = answerer.answer([Rolling(text) for text in texts])
        bits = [-answer.logprob / math.log(2) for answer in answers if isinstance(answer, RollingAnswer)]
        return np.array(bits) / np.maximum([len(text.encode()) for text in texts], 1)

    return bits_of
