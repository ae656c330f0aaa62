"""Hugging Face model directories, both ways: config.json and safetensors, with the family's own names."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from foundling.core.errors import FoundlingError
from foundling.models.config import ModelConfig
from foundling.models.families import family_for
from foundling.models.families.fields import Fields
from foundling.models.language_model import LanguageModel
from foundling.models.tensor_files import TensorFiles, write_tensors
from foundling.models.tensor_rules import Rule, expand

# buffers that older files carry and that we recompute
DERIVED = ("rotary_emb.inv_freq", "attn.bias", "attn.masked_bias", "attention.bias", "attention.masked_bias")


def read_config(path: Path | str) -> ModelConfig:
    """The architecture of a model directory.

    Raises:
        FoundlingError: naming the file, the model_type or the field that is missing, unknown or not supported.
    """
    return config_from_hf(read_json(Path(path) / "config.json"), str(Path(path) / "config.json"))


def config_from_hf(data: dict[str, Any], where: str) -> ModelConfig:
    """Translate the content of a config.json; `where` names it in messages."""
    hf = Fields(data, where)
    family = family_for(hf.take("model_type", str))
    hf.expect("architectures", [family.ARCHITECTURE])
    try:
        config = family.from_hf(hf)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(str(part) for part in first["loc"])
        raise FoundlingError(f"{where}: {name} would be {first['input']!r}", str(first["msg"])) from None
    hf.finish()
    return config


def config_to_hf(config: ModelConfig) -> dict[str, Any]:
    """The content of config.json for a config, without the dtype."""
    family = family_for(config.family)
    return {"architectures": [family.ARCHITECTURE], "model_type": config.family, **family.to_hf(config)}


def load_module(path: Path | str, dtype: torch.dtype | None = torch.float32) -> LanguageModel:
    """The model in a directory, in evaluation mode.

    Args:
        dtype: of the weights in memory; None keeps the files' own. Where it is the files' own, the weights stay
            memory-mapped and cost no memory until they are touched.

    Raises:
        FoundlingError: naming missing, unexpected and misshapen tensors, or a damaged file.
    """
    config = read_config(path)
    files = TensorFiles(Path(path))
    with torch.device("meta"):
        module = LanguageModel(config)
    shapes = {name: tensor.shape for name, tensor in module.state_dict().items()}
    rules = expand(family_for(config.family).rules(config), config.n_layers, set(shapes))
    _check_names(rules, files, config)
    tensors: dict[str, Tensor] = {}
    for rule in rules:
        tensors |= zip(rule.ours, _read(rule, files, [shapes[name] for name in rule.ours]), strict=True)
    module.load_state_dict({name: _cast(tensor, dtype) for name, tensor in tensors.items()}, assign=True)
    return module.requires_grad_(True).eval()


def save_module(module: LanguageModel, path: Path | str) -> None:
    """Write config.json, generation_config.json and the weights, in the dtype they have, under the family's names."""
    directory, config = Path(path), module.config
    directory.mkdir(parents=True, exist_ok=True)
    ours = module.state_dict()
    theirs: dict[str, Tensor] = {}
    for rule in expand(family_for(config.family).rules(config), config.n_layers, set(ours)):
        theirs |= zip(rule.theirs, rule.write([ours[name] for name in rule.ours]), strict=True)
    hf = config_to_hf(config) | {"dtype": str(next(module.parameters()).dtype).removeprefix("torch.")}
    write_json(directory / "config.json", hf)
    tokens = {name: hf[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id") if hf.get(name) is not None}
    write_json(directory / "generation_config.json", tokens)
    write_tensors(theirs, directory)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file, or a FoundlingError that names the file."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FoundlingError(f"{path} does not exist", "a model directory has a config.json") from None
    except (ValueError, OSError) as error:
        raise FoundlingError(f"{path} is not readable JSON", str(error)) from None
    if not isinstance(data, dict):
        raise FoundlingError(f"{path} holds {type(data).__name__}", "expected a JSON object")
    return data


def write_json(path: Path, data: dict[str, Any]) -> None:
    """Sorted, indented JSON."""
    path.write_text(json.dumps(data, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _check_names(rules: Sequence[Rule], files: TensorFiles, config: ModelConfig) -> None:
    wanted = {name for rule in rules for name in rule.theirs}
    missing = sorted(wanted - files.names)
    if missing:
        raise FoundlingError(
            f"{files.directory}: tensor {_some(missing)} missing", f"model_type {config.family!r} has it"
        )
    tied = {"lm_head.weight"} if config.tie_embeddings else set()
    unexpected = sorted(name for name in files.names - wanted - tied if not name.endswith(DERIVED))
    if unexpected:
        raise FoundlingError(
            f"{files.file_of(unexpected[0])}: unexpected tensor {_some(unexpected)}",
            f"config.json describes a {config.family} model without it",
        )


def _some(names: list[str]) -> str:
    rest = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{names[0]!r}{rest}"


def _read(rule: Rule, files: TensorFiles, shapes: Sequence[torch.Size]) -> Sequence[Tensor]:
    theirs = [files.get(name) for name in rule.theirs]
    ours = rule.read(theirs, shapes)
    for got, expected in zip(ours, shapes, strict=True):
        if got.shape != expected:
            raise FoundlingError(
                f"{files.file_of(rule.theirs[0])}: tensor {rule.theirs[0]!r} has shape {tuple(theirs[0].shape)}",
                f"config.json gives {' + '.join(str(tuple(shape)) for shape in shapes)}",
            )
    return ours


def _cast(tensor: Tensor, dtype: torch.dtype | None) -> nn.Parameter | Tensor:
    return tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor
