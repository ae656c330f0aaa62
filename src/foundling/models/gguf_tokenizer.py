"""The tokenizer inside a GGUF file: byte-level BPE as tokens, merges and the name of a pre-tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from foundling.core.errors import FoundlingError
from foundling.models.families.translate import read_json, write_json

if TYPE_CHECKING:
    import gguf

    from foundling.models.gguf_names import Get

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5  # llama.cpp's token types
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")


def _gpt2() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)


def _split(pattern: str) -> pre_tokenizers.PreTokenizer:
    split = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def _smollm() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), _gpt2()])


# llama.cpp's name -> how it splits text before merging
PRE_TOKENIZERS = {
    "gpt-2": _gpt2,
    "smollm": _smollm,
    "llama-bpe": lambda: _split(LLAMA3),
    "qwen2": lambda: _split(QWEN2),
}


def tokenizer_from_gguf(get: Get, where: str, directory: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json for a file's metadata.

    Raises:
        FoundlingError: for a kind of tokenizer or a pre-tokenizer that is not supported.
    """
    pre = {"default": "gpt-2"}.get(get("tokenizer.ggml.pre", "default"), get("tokenizer.ggml.pre", "default"))
    if get("tokenizer.ggml.model") != "gpt2" or pre not in PRE_TOKENIZERS:
        kind = f"{get('tokenizer.ggml.model')!r} with pre-tokenizer {pre!r}"
        raise FoundlingError(f"{where}: tokenizer {kind} is not supported", f"supported: {', '.join(PRE_TOKENIZERS)}")
    tokens, types = get("tokenizer.ggml.tokens"), get("tokenizer.ggml.token_type")
    merges = [tuple(merge.split(" ", 1)) for merge in get("tokenizer.ggml.merges")]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = PRE_TOKENIZERS[pre]()
    tokenizer.decoder = decoders.ByteLevel()
    if pre == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    added = [(token, kind) for token, kind in zip(tokens, types, strict=True) if kind in (CONTROL, USER_DEFINED)]
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token, kind in added if kind == CONTROL])
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token, kind in added if kind == USER_DEFINED])
    settings = _settings(get, tokens)
    if get("tokenizer.ggml.add_bos_token", False) and "bos_token" in settings:
        bos = settings["bos_token"]
        pieces = {"single": f"{bos} $A", "pair": f"{bos} $A {bos} $B"}
        tokenizer.post_processor = processors.TemplateProcessing(
            **pieces, special_tokens=[(bos, get("tokenizer.ggml.bos_token_id"))]
        )
    else:
        tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(directory / "tokenizer.json"))
    write_json(directory / "tokenizer_config.json", settings)


def tokenizer_to_gguf(writer: gguf.GGUFWriter, directory: Path, vocab_size: int) -> None:
    """Add the tokenizer of a model directory to a GGUF file; rows of the embedding without a token are marked unused.

    Raises:
        FoundlingError: for a tokenizer that llama.cpp would not reproduce.
    """
    data, settings = read_json(directory / "tokenizer.json"), read_json(directory / "tokenizer_config.json")
    if data["model"].get("type") != "BPE":
        raise FoundlingError(
            f"{directory}: a {data['model'].get('type')} tokenizer cannot be written as GGUF", "BPE can"
        )
    added = {token["id"]: token for token in data.get("added_tokens", [])}
    by_id = {i: token for token, i in data["model"]["vocab"].items()} | {i: t["content"] for i, t in added.items()}
    kinds = {i: CONTROL if token["special"] else USER_DEFINED for i, token in added.items()}
    tokens = [by_id.get(i, f"[PAD{i}]") for i in range(vocab_size)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_pre_name(data, directory))
    writer.add_token_list(tokens)
    writer.add_token_types([kinds.get(i, NORMAL if i in by_id else UNUSED) for i in range(vocab_size)])
    merges = data["model"]["merges"]
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
    ids = {token: i for i, token in by_id.items()}
    for name, add in (
        ("bos_token", writer.add_bos_token_id),
        ("eos_token", writer.add_eos_token_id),
        ("pad_token", writer.add_pad_token_id),
        ("unk_token", writer.add_unk_token_id),
    ):
        token = settings.get(name)
        token = token["content"] if isinstance(token, dict) else token
        if token in ids:
            add(ids[token])
    writer.add_add_bos_token(bool(settings.get("add_bos_token", False)))
    writer.add_add_space_prefix(False)
    if isinstance(settings.get("chat_template"), str):
        writer.add_chat_template(settings["chat_template"])


def _settings(get: Get, tokens: list[str]) -> dict[str, Any]:
    """The content of tokenizer_config.json."""
    settings: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "add_bos_token": bool(get("tokenizer.ggml.add_bos_token", False)),
    }
    for name, theirs in (("bos", "bos"), ("eos", "eos"), ("pad", "padding"), ("unk", "unknown")):
        index = get(f"tokenizer.ggml.{theirs}_token_id", None)
        if index is not None:
            settings[f"{name}_token"] = tokens[index]
    template = get("tokenizer.chat_template", None)
    return settings | ({"chat_template": template} if template else {})


def _pre_name(data: dict[str, Any], directory: Path) -> str:
    """llama.cpp's name of a tokenizer.json's pre-tokenizer."""
    found = _plain(data.get("pre_tokenizer"))
    for name, make in PRE_TOKENIZERS.items():
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = make()
        if _plain(json.loads(tokenizer.to_str())["pre_tokenizer"]) == found:
            return name
    known = ", ".join(PRE_TOKENIZERS)
    raise FoundlingError(f"{directory}: llama.cpp does not know this tokenizer's pre-tokenizer", f"it knows: {known}")


def _plain(part: Any) -> Any:
    """A pre-tokenizer's description without the settings that do not change how it splits."""
    if isinstance(part, dict):
        return {key: _plain(value) for key, value in part.items() if key not in ("trim_offsets",)}
    return [_plain(item) for item in part] if isinstance(part, list) else part
