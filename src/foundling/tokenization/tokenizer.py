"""A tokenizer as every other layer sees it: `tokenizers`' fast one, its special ids and its chat template."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import tokenizers

from foundling.core.errors import FoundlingError

ENDOFTEXT, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
SPECIAL_TOKENS = (ENDOFTEXT, TURN_START, TURN_END)
# How published models end a document and a turn, in order of preference. Only those in the vocabulary count.
FEWEST = 0.9  # of a model's vocabulary that its tokenizer fills at least; published models pad by 3% at most
_DOCUMENT_ENDS = (ENDOFTEXT, "<|end_of_text|>", "<|end▁of▁sentence|>", "</s>")
_TURN_ENDS: tuple[str, ...] = (TURN_END, "<|eot_id|>", "<|eom_id|>", "<end_of_turn>", "<|end|>", "<|eot|>", "<turn|>")
_TURN_ENDS += ("<|return|>", "<|END_OF_TURN_TOKEN|>")
_FILES = ("tokenizer.json", "tokenizer_config.json")
LONG = 4096  # characters: encoded in a millisecond or so


class Tokenizer:
    """Text <-> ids. Wraps `tokenizers.Tokenizer`; adds the special ids and the chat template of a model directory.

    Args:
        fast: the `tokenizers` object.
        config: the content of `tokenizer_config.json`.
        stop_ids: extra ids that end generation (from `generation_config.json`).
    """

    def __init__(self, fast: tokenizers.Tokenizer, config: dict[str, Any], stop_ids: Iterable[int] = ()) -> None:
        self.fast = fast
        self.config = dict(config)
        self.fast.no_padding()
        self.fast.no_truncation()
        # Two copies and no switching: with `encode_special_tokens`, control tokens in a text stay ordinary text.
        self._literal = tokenizers.Tokenizer.from_str(fast.to_str())
        self._literal.encode_special_tokens = True
        self.chat_template = _template_text(self.config.get("chat_template"))
        self.vocab_size: int = max(fast.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        self.eot_id = self._first_id(_DOCUMENT_ENDS, fallback="eos_token")
        self.pad_id = self._configured("pad_token", self.eot_id)
        self.bos_id = self._prepended_id()
        self.stop_ids = self._all_stop_ids(stop_ids)

    @classmethod
    def load(cls, directory: str | Path) -> Tokenizer:
        """Read `tokenizer.json`, `tokenizer_config.json` and, where present, `chat_template.jinja` and the stop ids.

        Raises:
            FoundlingError: the directory holds no tokenizer, or a broken one.
        """
        directory = Path(directory)
        path = directory / "tokenizer.json"
        if not path.is_file():
            raise FoundlingError(f"{directory} is not a tokenizer: it has no tokenizer.json")
        try:
            fast = tokenizers.Tokenizer.from_str(path.read_text(encoding="utf-8"))
        except Exception as error:  # `tokenizers` raises bare Exception for every malformed file
            raise FoundlingError(f"{path} is not a tokenizer that can be read", str(error)) from error
        config = _read_json(directory / "tokenizer_config.json")
        template = directory / "chat_template.jinja"
        if template.is_file():
            config["chat_template"] = template.read_text(encoding="utf-8")
        stops = _read_json(directory / "generation_config.json").get("eos_token_id") or []
        return cls(fast, config, stops if isinstance(stops, list) else [stops])

    def require_fits(self, vocab_size: int, where: Path | str) -> None:
        """Refuse a tokenizer that cannot be that of a model with `vocab_size` tokens.

        Published models have up to a few per cent of unused ids, and now and then an added token too many.

        Raises:
            FoundlingError: it has more tokens than the model, or so few that it belongs to another.
        """
        own, added = self.fast.get_vocab_size(with_added_tokens=False), self.vocab_size
        if own > vocab_size or added < FEWEST * vocab_size:
            what = f"the tokenizer of {where} is not this model's: it has {added} tokens, the model {vocab_size}"
            raise FoundlingError(what, fix="Put the tokenizer.json there that the model was trained with")

    def save(self, directory: str | Path) -> None:
        """Write `tokenizer.json` and `tokenizer_config.json`; `transformers.AutoTokenizer` loads them."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        config = {"tokenizer_class": "PreTrainedTokenizerFast", **self.config}
        if self.chat_template is not None:
            config["chat_template"] = self.chat_template
        (directory / _FILES[0]).write_text(self.fast.to_str(pretty=False), encoding="utf-8")
        text = json.dumps(config, indent=2, ensure_ascii=False, sort_keys=True)
        (directory / _FILES[1]).write_text(text + "\n", encoding="utf-8")

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        """Ids of `text`, with nothing added.

        Args:
            special: True turns a control token's text ("<|im_end|>") into its id. Only for text that we wrote
                ourselves: in a user's text it stays ordinary characters.
        """
        encoder = self.fast if special else self._literal
        if len(text) > LONG:  # only a batch lets go of the interpreter: other threads run on beside a long text
            return encoder.encode_batch_fast([text], add_special_tokens=False)[0].ids
        return encoder.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of each text (`special=False`), on all cores."""
        return [e.ids for e in self._literal.encode_batch_fast(list(texts), add_special_tokens=False)]

    def encode_framed(self, texts: Sequence[str], longest: int | None = None) -> list[list[int]]:
        """`encode_batch` with what the tokenizer's own template puts around a text ([CLS] and [SEP], <s>, or nothing).

        Args:
            longest: a longer text loses its end, so that with its frame it has this many ids.
        """
        encodings = self._literal.encode_batch(list(texts), add_special_tokens=False)
        if longest is not None:
            for encoding in encodings:
                encoding.truncate(max(0, longest - self._literal.num_special_tokens_to_add(is_pair=False)))
        return [self._literal.post_process(encoding).ids for encoding in encodings]

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        """Text of `ids`; bytes that are not UTF-8 become U+FFFD."""
        return self.fast.decode(list(ids), skip_special_tokens=skip_special)

    def id_of(self, token: str) -> int | None:
        """Id of a token's exact text, or None."""
        return self.fast.token_to_id(token)

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Ids of control tokens: those that `decode` leaves out."""
        return frozenset(i for i, token in self.fast.get_added_tokens_decoder().items() if token.special)

    @cached_property
    def special_tokens(self) -> dict[str, int]:
        """Text of each control token -> id."""
        return {t.content: i for i, t in self.fast.get_added_tokens_decoder().items() if t.special}

    def token_bytes(self, id: int) -> bytes:
        """The bytes that token `id` stands for (for control tokens, their text's).

        Joined over a text's ids they are the text in UTF-8, for byte-level and byte-fallback tokenizers. An id in
        the range of `vocab_size` that no token has is b"".
        """
        assert 0 <= id < self.vocab_size, f"no token {id} in a vocabulary of {self.vocab_size}"
        piece = self.fast.id_to_token(id)
        if piece is None:
            return b""
        if id in self._added_ids:
            return piece.encode()
        if self.is_byte_level:
            table = _byte_of_char()
            return bytes(table[c] for c in piece) if all(c in table for c in piece) else piece.encode()
        if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
            return bytes([int(piece[3:5], 16)])
        return piece.removeprefix("##").replace("▁", " ").encode()

    @cached_property
    def is_byte_level(self) -> bool:
        """Whether tokens are spelled in GPT-2's byte alphabet."""
        return '"ByteLevel"' in json.dumps(json.loads(self.fast.to_str()).get("decoder"))

    @cached_property
    def _added_ids(self) -> frozenset[int]:
        return frozenset(self.fast.get_added_tokens_decoder())

    def _configured(self, field: str, default: int) -> int:
        token = _token_text(self.config.get(field))
        found = self.fast.token_to_id(token) if token else None
        return default if found is None else found

    def _first_id(self, names: Sequence[str], fallback: str) -> int:
        for name in names:
            found = self.fast.token_to_id(name)
            if found is not None:
                return found
        found = self._configured(fallback, -1)
        return found if found >= 0 else self._configured("sep_token", 0)

    def _prepended_id(self) -> int | None:
        plain = self.fast.encode("a", add_special_tokens=False).ids
        full = self.fast.encode("a", add_special_tokens=True).ids
        return full[0] if len(full) > len(plain) and full[:1] != plain[:1] else None

    def _all_stop_ids(self, extra: Iterable[int]) -> tuple[int, ...]:
        template = self.chat_template or ""
        turn_ends = [self.fast.token_to_id(name) for name in _TURN_ENDS if name in template]
        eos = self._configured("eos_token", self.eot_id)
        found = [*(i for i in turn_ends if i is not None), eos, self.eot_id, *extra]
        return tuple(dict.fromkeys(found))


class TextStream:
    """Incremental detokenization: `push` ids, get only complete characters; `flush` at the end.

    The joined pieces equal `tokenizer.decode(ids)`.
    """

    def __init__(self, tokenizer: Tokenizer, *, skip_special: bool = True) -> None:
        self._tokenizer = tokenizer
        self._skip = tokenizer.special_ids if skip_special else frozenset()
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._shown: list[int] = []  # the ids whose text came last: context for tokenizers that are not byte-level
        self._pending: list[int] = []

    def push(self, id: int) -> str:
        """The text that became complete with this id, often ""."""
        if id in self._skip:
            return ""
        if self._tokenizer.is_byte_level:
            return self._utf8.decode(self._tokenizer.token_bytes(id))
        self._pending.append(id)
        text = self._new_text()
        if text.endswith("\ufffd"):
            return ""
        self._shown, self._pending = self._pending, []
        return text

    def flush(self) -> str:
        """What is left: an unfinished character becomes U+FFFD."""
        if self._tokenizer.is_byte_level:
            return self._utf8.decode(b"", final=True)
        text = self._new_text() if self._pending else ""
        self._shown, self._pending = [], []
        return text

    def _new_text(self) -> str:
        before = self._tokenizer.decode(self._shown, skip_special=False)
        return self._tokenizer.decode(self._shown + self._pending, skip_special=False)[len(before) :]


@lru_cache(maxsize=1)
def byte_alphabet() -> dict[int, str]:
    """GPT-2's spelling of the 256 bytes as printable characters: byte -> character."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in plain]
    return {**{b: chr(b) for b in plain}, **{b: chr(256 + n) for n, b in enumerate(rest)}}


@lru_cache(maxsize=1)
def _byte_of_char() -> dict[str, int]:
    return {char: byte for byte, char in byte_alphabet().items()}


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise FoundlingError(f"{path} is not valid JSON", str(error)) from error
    if not isinstance(data, dict):
        raise FoundlingError(f"{path} should hold a JSON object")
    return data


def _token_text(value: Any) -> str | None:
    return value.get("content") if isinstance(value, dict) else value


def _template_text(value: Any) -> str | None:
    """`chat_template` is a text, or a list of named ones of which "default" counts."""
    if isinstance(value, list):
        named = {item["name"]: item["template"] for item in value}
        return named.get("default")
    return value
