"""The configs of the stages `tokenizer` and `tokenize`."""

from __future__ import annotations

from typing import Literal

from foundling.core.config import Config, option


class TokenizerConfig(Config):
    """A corpus -> a tokenizer."""

    kind: Literal["bpe", "unigram", "wordpiece", "bytes", "characters"] = option(
        "bpe", "byte-level BPE, byte-level unigram, WordPiece, single bytes, or single characters (proteins)"
    )
    vocab_size: int = option(4096, "tokens in the vocabulary, special ones included", ge=4, le=1_000_000)
    pre_tokenizer: Literal["gpt2", "llama3"] = option(
        "gpt2", "how text is cut before merging: GPT-2's or Llama 3's pattern (llama.cpp knows both)"
    )
    split_digits: bool = option(False, "every digit is a token of its own")
    whitespace: Literal["runs", "single"] = option(
        "runs", "runs: several spaces may be one token, as code wants it; single: every one is a token of its own"
    )
    special_tokens: tuple[str, ...] = option((), "further control tokens, such as [MASK]")
    sample_bytes: int = option(100_000_000, "train on at most this much text, evenly spread over the corpus", gt=0)
    min_frequency: int = option(2, "a pair must occur this often to be merged", ge=1)


Initialise = Literal["mean", "random"]


class ExtendConfig(Config):
    """A model and the text of a domain or language -> the model with further tokens for it."""

    tokens: int = option(1000, "new tokens, at most", ge=1)
    initialise: Initialise = option(
        "mean", "rows of a new token: the mean of the tokens that it replaces, or drawn like the others"
    )
    sample_bytes: int = option(20_000_000, "learn them on at most this much text", gt=0)
    seed: int = option(0, "of random rows")


class TokenizeConfig(Config):
    """A corpus and a tokenizer -> token files."""

    fast: bool = option(True, "use gigatoken where it agrees with `tokenizers` on a sample", affects_result=False)
    batch_bytes: int = option(8_000_000, "text encoded at a time", affects_result=False, gt=0)
