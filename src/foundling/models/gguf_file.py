"""GGUF, llama.cpp's single-file format: read models from it and write models to it."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, Literal

import gguf
import numpy as np
import torch
from torch import Tensor

from foundling.core.errors import FoundlingError
from foundling.models.checkpoint import fill
from foundling.models.config import ModelConfig
from foundling.models.families.translate import config_from_hf
from foundling.models.gguf_blocks import BLOCK, dequantize, encode, to_q6_k
from foundling.models.gguf_header import Header
from foundling.models.gguf_names import config_from_gguf, config_to_gguf, gguf_rules
from foundling.models.gguf_tokenizer import tokenizer_to_gguf
from foundling.models.language_model import LanguageModel
from foundling.models.quantized import QuantizedLinear, Scheme
from foundling.models.tensor_rules import expand

Precision = Literal["f32", "f16", "bf16", "q8_0", "q4_0", "q4_1"]
FILE_TYPES = {
    "f32": gguf.LlamaFileType.ALL_F32,
    "f16": gguf.LlamaFileType.MOSTLY_F16,
    "bf16": gguf.LlamaFileType.MOSTLY_BF16,
    "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
    "q4_0": gguf.LlamaFileType.MOSTLY_Q4_0,
    "q4_1": gguf.LlamaFileType.MOSTLY_Q4_1,
}
REQUIRED = object()


class GGUFFile:
    """One GGUF file: metadata by key and tensors by name, dequantized when read.

    Raises:
        FoundlingError: if the file is truncated or no GGUF file.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.directory = self.path.parent
        try:
            header = Header(self.path)
        except FileNotFoundError:
            raise FoundlingError(f"{self.path} does not exist") from None
        except (ValueError, KeyError, struct.error) as error:
            raise FoundlingError(f"{self.path} is truncated or not a GGUF file", str(error)) from None
        self.fields, self._places = header.fields, header.tensors
        self._bytes = torch.from_file(str(self.path), size=self.path.stat().st_size, dtype=torch.uint8)

    def field(self, key: str, default: Any = REQUIRED) -> Any:
        """The value of a metadata field."""
        value = self.fields.get(key, default)
        if value is REQUIRED:
            raise FoundlingError(f"{self.path}: metadata field '{key}' is missing")
        return value

    @property
    def names(self) -> set[str]:
        """All tensors there are."""
        return set(self._places)

    def file_of(self, name: str) -> Path:
        """This file."""
        return self.path

    def get(self, name: str) -> Tensor:
        """The tensor: plain kinds in their own precision, quantized ones as float32."""
        place = self._places[name]
        try:
            data = self._bytes[place.start : place.start + place.n_bytes]
            return dequantize(data, place.kind, place.shape)
        except NotImplementedError:
            what = f"tensor {name!r} is quantized as {place.kind.name}"
            raise FoundlingError(f"{self.path}: {what}, which is not supported") from None

    def config(self) -> ModelConfig:
        """The architecture."""
        return config_from_hf(config_from_gguf(self.field, self.names, str(self.path)), str(self.path))


def load_gguf(path: Path | str, dtype: torch.dtype | None = torch.float32) -> LanguageModel:
    """The model in a GGUF file, dequantized, in evaluation mode.

    Raises:
        FoundlingError: naming what is damaged, missing or not supported.
    """
    file = GGUFFile(path)
    config = file.config()
    with torch.device("meta"):
        module = LanguageModel(config)
    rules = expand(gguf_rules(config), config.n_layers, set(module.state_dict()))
    return fill(module, rules, file, dtype)


def save_gguf(module: LanguageModel, tokenizer: Path, path: Path, precision: Precision = "f16") -> None:
    """Write a model and the tokenizer of a directory as one GGUF file.

    Matrices take the precision where their rows divide into its blocks of 32, else float16; the embedding and the head
    of a 4-bit file are kept in q6_k (q8_0 if 256 does not divide them), as llama.cpp does; vectors stay float32. A
    quantized layer keeps its own codes where GGUF has its scheme (integers in groups of 32).
    """
    arch, fields = config_to_gguf(module.config)
    writer = gguf.GGUFWriter(path, arch)
    writer.add_file_type(FILE_TYPES[precision])
    writer.add_name(path.stem)
    for key, value in fields.items():
        add = {int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}[type(value)]
        add(f"{arch}.{key}", value)  # type: ignore[operator]
    tokenizer_to_gguf(writer, tokenizer, module.config.vocab_size)
    ours = dense_state(module)
    for rule in expand(gguf_rules(module.config), module.config.n_layers, set(ours)):
        layer = rule.ours[0].removesuffix(".weight") if rule.ours else ""
        chosen = module.get_submodule(layer) if layer and rule.ours[0] != layer else None
        if isinstance(chosen, QuantizedLinear) and (kind := _kind_of(chosen.scheme)) is not None:
            parts = (chosen.codes(), chosen.weight_scale, chosen.zero_points())
            moved = [None if part is None else rule.write([part])[0] for part in parts]  # rows may change places
            assert moved[0] is not None and moved[1] is not None
            writer.add_tensor(rule.theirs[0], encode(moved[0], moved[1], moved[2], kind).numpy(), raw_dtype=kind)
            continue
        for name, tensor in zip(rule.theirs, rule.write([ours[name] for name in rule.ours]), strict=bool(rule.ours)):
            kind = _kind(name, tensor, precision)
            if kind == gguf.GGMLQuantizationType.Q6_K:
                data = to_q6_k(tensor).numpy()
            else:
                data = gguf.quantize(np.ascontiguousarray(tensor.float().numpy()), kind)
            writer.add_tensor(name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def dense_state(module: LanguageModel) -> dict[str, Tensor]:
    """The module's tensors, quantized layers as their dequantized weights."""
    state = {name: tensor.detach().cpu() for name, tensor in module.state_dict().items()}
    for layer, part in module.named_modules():
        if isinstance(part, QuantizedLinear):
            for name in [name for name in state if name.startswith(f"{layer}.weight")]:
                del state[name]
            state[f"{layer}.weight"] = part.weight.detach().cpu()
    return state


def _kind_of(scheme: Scheme) -> gguf.GGMLQuantizationType | None:
    """GGUF's kind that stores a scheme's codes as they are."""
    kinds = gguf.GGMLQuantizationType
    if scheme.numbers != "int" or scheme.group_size != BLOCK or (scheme.bits == 8 and not scheme.symmetric):
        return None
    if scheme.bits == 8:
        return kinds.Q8_0
    return kinds.Q4_0 if scheme.symmetric else kinds.Q4_1


def _kind(name: str, tensor: Tensor, precision: Precision) -> gguf.GGMLQuantizationType:
    kinds = gguf.GGMLQuantizationType
    if tensor.dim() < 2:
        return kinds.F32
    if precision.startswith("q4") and name in ("token_embd.weight", "output.weight"):
        if tensor.shape[1] % 256 == 0:
            return kinds.Q6_K
        precision = "q8_0"
    if precision.startswith("q") and tensor.shape[1] % 32:
        precision = "f16"
    return kinds[precision.upper()]
