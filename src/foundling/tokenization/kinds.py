"""The kinds of tokenizer: each is a model, how text is cut before it, how pieces are joined, and a trainer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import tokenizers
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers

from foundling.core.errors import FoundlingError
from foundling.tokenization.config import TokenizerConfig
from foundling.tokenization.tokenizer import SPECIAL_TOKENS, byte_alphabet

# Llama 3's pattern (also cl100k's, with at most three digits together), as in its tokenizer.json.
LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
UNKNOWN = "[UNK]"
BYTE_VOCABULARY = 256 + len(SPECIAL_TOKENS)


def train_fast(texts: Iterable[str], config: TokenizerConfig) -> tokenizers.Tokenizer:
    """A `tokenizers` object of the config's kind, trained on the texts.

    Raises:
        FoundlingError: the vocabulary is too small for the kind.
    """
    smallest = BYTE_VOCABULARY + len(config.special_tokens)
    if config.kind in ("bpe", "unigram") and config.vocab_size < smallest:
        what = f"vocab_size={config.vocab_size} is too small for {config.kind}"
        raise FoundlingError(
            what, "256 bytes and the special tokens come first", f"Set vocab_size to {smallest} or more"
        )
    makers = {"bpe": _bpe, "unigram": _unigram, "wordpiece": _wordpiece, "bytes": _bytes, "characters": _characters}
    return makers[config.kind](iter(texts), config)


def _bpe(texts: Iterator[str], config: TokenizerConfig) -> tokenizers.Tokenizer:
    """Byte-level byte-pair encoding (Sennrich et al. 2016; Radford et al. 2019)."""
    fast = _byte_level(models.BPE(), config)
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab_size,
        min_frequency=config.min_frequency,
        special_tokens=_specials(config),
        initial_alphabet=sorted(byte_alphabet().values()),
        show_progress=False,
    )
    fast.train_from_iterator(texts, trainer)
    return fast


def _unigram(texts: Iterator[str], config: TokenizerConfig) -> tokenizers.Tokenizer:
    """Unigram language model over bytes (Kudo 2018)."""
    fast = _byte_level(models.Unigram(), config)
    trainer = trainers.UnigramTrainer(
        vocab_size=config.vocab_size,
        special_tokens=_specials(config),
        initial_alphabet=sorted(byte_alphabet().values()),
        show_progress=False,
    )
    fast.train_from_iterator(texts, trainer)
    return fast


def _wordpiece(texts: Iterator[str], config: TokenizerConfig) -> tokenizers.Tokenizer:
    """WordPiece as BERT cuts text (Devlin et al. 2019), case kept; unknown characters become [UNK]."""
    fast = tokenizers.Tokenizer(models.WordPiece(unk_token=UNKNOWN))
    fast.normalizer = normalizers.BertNormalizer(lowercase=False)
    fast.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    fast.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=config.vocab_size,
        min_frequency=config.min_frequency,
        special_tokens=[*_specials(config), UNKNOWN],
        show_progress=False,
    )
    fast.train_from_iterator(texts, trainer)
    return fast


def _bytes(texts: Iterator[str], config: TokenizerConfig) -> tokenizers.Tokenizer:
    """Every byte a token (ByT5; Xue et al. 2022): nothing to train, no text unknown."""
    vocabulary = {token: number for number, token in enumerate([*_specials(config), *byte_alphabet().values()])}
    fast = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    fast.decoder = decoders.ByteLevel()
    fast.add_special_tokens(_specials(config))
    return fast


def _characters(texts: Iterator[str], config: TokenizerConfig) -> tokenizers.Tokenizer:
    """Every character a token, the frequent ones first: for proteins and other small alphabets."""
    fast = tokenizers.Tokenizer(models.WordLevel(unk_token=UNKNOWN))
    fast.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    fast.decoder = decoders.Fuse()
    trainer = trainers.WordLevelTrainer(
        vocab_size=config.vocab_size, special_tokens=[*_specials(config), UNKNOWN], show_progress=False
    )
    fast.train_from_iterator(texts, trainer)
    return fast


def _byte_level(model: models.Model, config: TokenizerConfig) -> tokenizers.Tokenizer:
    fast = tokenizers.Tokenizer(model)
    fast.pre_tokenizer = _pre_tokenizer(config)
    fast.decoder = decoders.ByteLevel()
    fast.post_processor = processors.ByteLevel(trim_offsets=False)
    return fast


def _pre_tokenizer(config: TokenizerConfig) -> pre_tokenizers.PreTokenizer:
    parts: list[pre_tokenizers.PreTokenizer] = []
    if config.whitespace == "single":
        parts.append(pre_tokenizers.Split(Regex(r"\s(?=\s)"), behavior="isolated"))
    if config.split_digits:
        parts.append(pre_tokenizers.Digits(individual_digits=True))
    if config.pre_tokenizer == "llama3":
        parts.append(pre_tokenizers.Split(Regex(LLAMA3_PATTERN), behavior="isolated"))
    parts.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=config.pre_tokenizer == "gpt2"))
    return parts[0] if len(parts) == 1 else pre_tokenizers.Sequence(parts)


def _specials(config: TokenizerConfig) -> list[str]:
    return [*SPECIAL_TOKENS, *(token for token in config.special_tokens if token not in SPECIAL_TOKENS)]
