"""Hugging Face model directories, both ways: config.json and safetensors, with the family's own names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from foundling.core.errors import FoundlingError
from foundling.models.config import ModelConfig
from foundling.models.families import family_for
from foundling.models.families.translate import config_to_hf, read_config, read_json, write_json
from foundling.models.gguf_directory import GGUF_LINK
from foundling.models.language_model import LanguageModel
from foundling.models.quantized import schemes_of
from foundling.models.quantized_bytes import layer_class
from foundling.models.quantized_format import schemes_from_hf, schemes_to_hf
from foundling.models.tensor_files import TensorFiles, TensorSource, write_tensors
from foundling.models.tensor_rules import Rule, expand

GENERATION = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")
# buffers that older files carry and that we recompute
DERIVED = ("rotary_emb.inv_freq", "attn.bias", "attn.masked_bias", "attention.bias", "attention.masked_bias")


def load_module(path: Path | str, dtype: torch.dtype | None = torch.float32) -> LanguageModel:
    """The model in a directory, in evaluation mode.

    Args:
        dtype: of the weights in memory; None keeps the files' own. Where it is the files' own, the weights stay
            memory-mapped and cost no memory until they are touched.

    Raises:
        FoundlingError: naming missing, unexpected and misshapen tensors, or a damaged file.
    """
    parts = Parts(path)
    return fill(parts.module, parts.rules, parts.source(), dtype)


class Parts:
    """A model whose tensors are read from its directory part by part, each when it is asked for.

    Attributes:
        module: on the meta device, but for the parts that have been read.
    """

    def __init__(self, path: Path | str) -> None:
        self.directory, config = Path(path), read_config(path)
        self.gguf = self.directory / GGUF_LINK if (self.directory / GGUF_LINK).exists() else None
        with torch.device("meta"):
            self.module = LanguageModel(config)
            if self.gguf is None:
                _place_quantized(self.module, TensorFiles(self.directory))
        names = set(self.module.state_dict())
        if self.gguf is None:
            self.rules = _rules(config, names)
        else:
            from foundling.models.gguf_names import gguf_rules

            self.rules = expand(gguf_rules(config), config.n_layers, names)

    def source(self) -> TensorSource:
        """The directory's tensors, opened anew, so that what has been read before is no longer mapped."""
        if self.gguf is None:
            return TensorFiles(self.directory)
        from foundling.models.gguf_file import GGUFFile

        return GGUFFile(self.gguf)

    def read(self, prefix: str, dtype: torch.dtype = torch.float32) -> None:
        """Bring the tensors under a prefix that are not in memory yet into it, copied out of the file's memory map."""
        source, state = self.source(), self.module.state_dict()
        for rule in self.rules:
            if any(name.startswith(prefix) and name in state and state[name].is_meta for name in rule.ours):
                found = _read(rule, source, [state[name].shape for name in rule.ours])
                tensors = zip(rule.ours, (_cast(part, dtype, copy=True) for part in found), strict=True)
                self.module.load_state_dict(dict(tensors), strict=False, assign=True)


def fill(
    module: LanguageModel, rules: Sequence[Rule], source: TensorSource, dtype: torch.dtype | None
) -> LanguageModel:
    """Give a module on the meta device the tensors that concrete `rules` say, in evaluation mode."""
    shapes = {name: tensor.shape for name, tensor in module.state_dict().items()}
    _check_names(rules, source, module.config)
    tensors: dict[str, Tensor] = {}
    for rule in (rule for rule in rules if rule.ours):
        tensors |= zip(rule.ours, _read(rule, source, [shapes[name] for name in rule.ours]), strict=True)
    module.load_state_dict({name: _cast(tensor, dtype) for name, tensor in tensors.items()}, assign=True)
    return module.eval()


def save_module(module: LanguageModel, path: Path | str) -> None:
    """Write config.json, generation_config.json and the weights, in the dtype they have, under the family's names."""
    directory, config = Path(path), module.config
    directory.mkdir(parents=True, exist_ok=True)
    ours = module.state_dict()
    theirs: dict[str, Tensor] = {}
    renamed: dict[str, str] = {}  # our layer -> theirs, for layers that correspond one to one
    for rule in (rule for rule in _rules(config, set(ours)) if rule.ours):
        theirs |= zip(rule.theirs, rule.write([ours[name] for name in rule.ours]), strict=True)
        if len(rule.ours) == 1:
            renamed[rule.ours[0].rpartition(".")[0]] = rule.theirs[0].rpartition(".")[0]
    hf = config_to_hf(config) | {"dtype": str(module.embedding.weight.dtype).removeprefix("torch.")}
    quantized = schemes_of(module)
    if quantized:
        fused = sorted(set(quantized) - set(renamed))
        if fused:
            raise FoundlingError(
                f"{config.family} files fuse {fused[0]!r} with others, so it cannot be stored quantized"
            )
        schemes = {renamed[name]: scheme for name, scheme in quantized.items()}
        dense = [renamed.get(name, name) for name, part in module.named_modules() if isinstance(part, nn.Linear)]
        if config.tie_embeddings:
            dense.append("lm_head")  # transformers has a layer there, whose matrix is the embedding's
        hf["quantization_config"] = schemes_to_hf(schemes, dense)
    write_json(directory / "config.json", hf)
    tokens = {name: hf[name] for name in GENERATION if hf.get(name) is not None}
    write_json(directory / "generation_config.json", tokens)
    write_tensors(theirs, directory)


def _place_quantized(module: LanguageModel, files: TensorFiles) -> None:
    """Put a quantized layer wherever the files hold one: where a weight has scales."""
    where = files.directory / "config.json"
    linear = {f"{name}.weight" for name, part in module.named_modules() if isinstance(part, nn.Linear)}
    layers = {}  # their name -> ours
    for rule in _rules(module.config, set(module.state_dict())):
        layer = rule.theirs[0].removesuffix(".weight")
        scales = {f"{layer}.weight_scale", f"{layer}.weight.absmax"}
        if rule.ours and rule.ours[0] in linear and scales & files.names:
            layers[layer] = rule.ours[0].removesuffix(".weight")
    config = read_json(where).get("quantization_config")
    if config is None:
        return
    for theirs, scheme in schemes_from_hf(config, list(layers), str(where)).items():
        old = cast(nn.Linear, module.get_submodule(layers[theirs]))
        new = layer_class(scheme)(old.in_features, old.out_features, old.bias is not None, scheme)
        module.set_submodule(layers[theirs], new)


def _rules(config: ModelConfig, names: set[str]) -> list[Rule]:
    encoder = len(config.encoder.blocks) if config.encoder else 0
    return expand(family_for(config.family).rules(config), max(config.n_layers, encoder), names)


def _check_names(rules: Sequence[Rule], source: TensorSource, config: ModelConfig) -> None:
    wanted = {name for rule in rules if rule.ours for name in rule.theirs}
    known = {name for rule in rules for name in rule.theirs}
    missing = sorted(wanted - source.names)
    if missing:
        raise FoundlingError(
            f"{source.directory}: tensor {_some(missing)} missing", f"model_type {config.family!r} has it"
        )
    unexpected = sorted(name for name in source.names - known if not name.endswith(DERIVED))
    if unexpected:
        raise FoundlingError(
            f"{source.file_of(unexpected[0])}: unexpected tensor {_some(unexpected)}",
            f"config.json describes a {config.family} model without it",
        )


def _some(names: list[str]) -> str:
    rest = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{names[0]!r}{rest}"


def _read(rule: Rule, source: TensorSource, shapes: Sequence[torch.Size]) -> Sequence[Tensor]:
    theirs = [source.get(name) for name in rule.theirs]
    ours = rule.read(theirs, shapes)
    for got, expected in zip(ours, shapes, strict=True):
        if got.shape != expected:
            raise FoundlingError(
                f"{source.file_of(rule.theirs[0])}: tensor {rule.theirs[0]!r} has shape {tuple(theirs[0].shape)}",
                f"config.json gives {' + '.join(str(tuple(shape)) for shape in shapes)}",
            )
    return ours


def _cast(tensor: Tensor, dtype: torch.dtype | None, *, copy: bool = False) -> nn.Parameter | Tensor:
    convert = dtype is not None and tensor.is_floating_point() and tensor.itemsize > 1  # float8 is a code
    return tensor.to(dtype if convert else tensor.dtype, copy=copy)
