from __future__ import annotations

import pytest
from hypothesis import settings

from foundling.tokenization.config import TokenizerConfig
from foundling.tokenization.tokenizer import Tokenizer
from foundling.tokenization.train import train

settings.register_profile("shared-machine", deadline=None)  # timings say nothing where others work too
settings.load_profile("shared-machine")

TEXT = "def add(a, b):\n    return a + b  # the sum of two numbers, as in 1 + 2 = 3\n\nHello world, hello user!\n"


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """A byte-level BPE of 300 tokens."""
    return train(iter([TEXT] * 10), TokenizerConfig(vocab_size=300))
