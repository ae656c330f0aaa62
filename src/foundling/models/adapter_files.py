"""PEFT's adapter directory, both ways: adapter_config.json and adapter_model.safetensors."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from foundling.core.errors import FoundlingError
from foundling.models.adapter_config import AdapterConfig
from foundling.models.adapters import (
    LoRALinear,
    PromptEmbedding,
    adapter_layers,
    attach,
    hugging_face_layers,
)
from foundling.models.language_model import LanguageModel

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
_PROMPT = "prompt_embeddings"
# Fields that change the arithmetic and that we have none of: they must have the value that means "off".
_MUST_BE_OFF: dict[str, Any] = {
    "bias": "none", "fan_in_fan_out": False, "modules_to_save": None, "rank_pattern": {}, "alpha_pattern": {},
    "layers_to_transform": None, "layer_replication": None, "lora_bias": False, "trainable_token_indices": None,
    "target_parameters": None, "use_qalora": False, "exclude_modules": None, "use_bdlora": None, "kasa_config": None,
    "alora_invocation_tokens": None, "arrow_config": None, "velora_config": None, "monteclora_config": None,
}  # fmt: skip


def is_adapter(directory: Path | str) -> bool:
    """Whether a directory holds an adapter rather than a model."""
    return (Path(directory) / CONFIG).is_file()


def save_adapter(module: LanguageModel, config: AdapterConfig, directory: Path | str, base: str) -> None:
    """Write the adapter on `module`; `base` is the path or hub id of the model it belongs to."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    if config.method == "prompt":
        assert isinstance(module.embedding, PromptEmbedding)
        prompt = module.embedding.prompt.detach()
        tensors = {_PROMPT: prompt.contiguous()}
        fields: dict[str, Any] = {
            "peft_type": "PROMPT_TUNING", "num_virtual_tokens": len(prompt), "token_dim": prompt.shape[1],
            "num_layers": module.config.n_layers, "num_transformer_submodules": 1, "num_attention_heads": 1,
            "prompt_tuning_init": "RANDOM",
        }  # fmt: skip
    else:
        theirs = {name.removesuffix(".base"): their for name, their in hugging_face_layers(module).items()}
        layers = {theirs[name]: layer for name, layer in adapter_layers(module).items()}
        tensors = {f"{_PREFIX}{name}.{key}": t for name, layer in layers.items() for key, t in _tensors(layer).items()}
        fields = {
            "peft_type": "LORA", "r": config.rank, "lora_alpha": config.alpha, "lora_dropout": config.dropout,
            "target_modules": sorted(layers), "use_rslora": config.method == "rslora",
            "use_dora": config.method == "dora", "bias": "none", "fan_in_fan_out": False, "init_lora_weights": True,
        }  # fmt: skip
    common = {"task_type": "CAUSAL_LM", "base_model_name_or_path": base, "inference_mode": True}
    save_file(tensors, directory / WEIGHTS, metadata={"format": "pt"})
    text = json.dumps(common | fields, indent=2, sort_keys=True)
    (directory / CONFIG).write_text(text + "\n", encoding="utf-8")


def load_adapter(module: LanguageModel, directory: Path | str) -> AdapterConfig:
    """Put the adapter in a directory on `module`, in place.

    Raises:
        FoundlingError: no adapter, one of another kind or model, or one whose config changes the arithmetic in a way
            that we do not know.
    """
    directory = Path(directory)
    fields = read_adapter_config(directory)
    tensors = _read_tensors(directory / WEIGHTS)
    config = _config_of(fields, str(directory / CONFIG))
    if config.method == "prompt":
        attach(module, config, seed=0)
        assert isinstance(module.embedding, PromptEmbedding)
        _fill(module.embedding.prompt, tensors.pop(_PROMPT, None), _PROMPT, directory)
    else:
        targets = fields["target_modules"]
        wanted = _named_layers(module, targets, directory)
        attach(module, config.model_copy(update={"targets": tuple(wanted)}), seed=0)
        theirs = {name.removesuffix(".base"): their for name, their in hugging_face_layers(module).items()}
        for name, layer in adapter_layers(module).items():
            for key, parameter in _parameters(layer).items():
                full = f"{_PREFIX}{theirs[name]}.{key}"
                _fill(parameter, tensors.pop(full, None), full, directory)
    if tensors:
        raise FoundlingError(f"{directory / WEIGHTS}: tensor {min(tensors)!r} belongs to no layer of this model")
    return config


def read_adapter_config(directory: Path | str) -> dict[str, Any]:
    """The fields of adapter_config.json. Raises FoundlingError if there is none."""
    path = Path(directory) / CONFIG
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FoundlingError(f"{path} cannot be read", str(error)) from None
    if not isinstance(fields, dict):
        raise FoundlingError(f"{path} is not an object", "PEFT's adapter_config.json was expected")
    return fields


def base_of(directory: Path | str) -> str:
    """The base model an adapter names: an id, or a path (a relative one is relative to the adapter)."""
    name = str(read_adapter_config(directory).get("base_model_name_or_path") or "")
    if not name:
        raise FoundlingError(f"{Path(directory) / CONFIG} names no base model", fix="Set base_model_name_or_path")
    beside = Path(directory) / name
    return str(beside.resolve()) if beside.is_dir() else name


def _config_of(fields: dict[str, Any], where: str) -> AdapterConfig:
    kind = fields.get("peft_type")
    if kind == "PROMPT_TUNING":
        return AdapterConfig(method="prompt", virtual_tokens=fields["num_virtual_tokens"])
    if kind != "LORA":
        raise FoundlingError(f"{where}: peft_type is {kind!r}", "LORA and PROMPT_TUNING are supported")
    for name, off in _MUST_BE_OFF.items():
        if fields.get(name) not in (off, None, [], {}):
            raise FoundlingError(f"{where}: {name} is {fields[name]!r}", f"only {off!r} is supported")
    if fields.get("use_rslora") and fields.get("use_dora"):
        raise FoundlingError(f"{where}: use_rslora together with use_dora", "only one of them is supported")
    method: Literal["lora", "rslora", "dora"] = (
        "dora" if fields.get("use_dora") else "rslora" if fields.get("use_rslora") else "lora"
    )
    return AdapterConfig(
        method=method, rank=fields["r"], alpha=fields["lora_alpha"], dropout=fields.get("lora_dropout", 0.0)
    )


def _named_layers(module: LanguageModel, targets: list[str] | str, directory: Path) -> list[str]:
    """Hugging Face names of the targets: ends of names in a list, or a regular expression for whole names."""
    theirs = list(hugging_face_layers(module).values())
    if isinstance(targets, str):
        found = [name for name in theirs if re.fullmatch(targets, name)]
        if targets == "all-linear":
            found = [name for name in theirs if name != "lm_head"]
        if not found:
            raise FoundlingError(f"{directory / CONFIG}: target_modules {targets!r} matches no layer of this model")
        return found
    return list(targets)


def _tensors(layer: LoRALinear) -> dict[str, Tensor]:
    return {name: parameter.detach().contiguous() for name, parameter in _parameters(layer).items()}


def _parameters(layer: LoRALinear) -> dict[str, nn.Parameter]:
    named = {"lora_A.weight": layer.lora_A, "lora_B.weight": layer.lora_B}
    return named if layer.magnitude is None else named | {"lora_magnitude_vector": layer.magnitude}


def _fill(parameter: nn.Parameter, value: Tensor | None, name: str, directory: Path) -> None:
    if value is None:
        raise FoundlingError(f"{directory / WEIGHTS}: tensor {name!r} is missing")
    if value.shape != parameter.shape:
        what = f"{directory / WEIGHTS}: tensor {name!r} has shape {tuple(value.shape)}"
        raise FoundlingError(what, f"this model needs {tuple(parameter.shape)}")
    with torch.no_grad():
        parameter.copy_(value)


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise FoundlingError(f"{path} cannot be read", str(error)) from None
