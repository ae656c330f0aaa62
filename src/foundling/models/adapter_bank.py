"""Several adapters on one base in the same batch, each row with its own: many cheap skins on one substrate.

The rows' updates are two batched products over stacked A and B (the idea of Punica, Chen et al. 2023,
arXiv:2310.18547, and S-LoRA, Sheng et al. 2023, arXiv:2311.03285). The base is never touched: the bank works on a twin
of the module that shares its weights.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from foundling.core.errors import FoundlingError, nearest
from foundling.models.adapter_files import load_adapter
from foundling.models.adapters import LoRALinear, adapter_layers
from foundling.models.config import MoEConfig
from foundling.models.language_model import LanguageModel
from foundling.models.quantized import QuantizedLinear


class BankedLinear(nn.Module):
    """A layer whose rows may each have their own low-rank update; adapter 0 is none.

    Args:
        bank: says which row has which adapter.
    """

    def __init__(self, base: nn.Linear | QuantizedLinear, bank: AdapterBank) -> None:
        super().__init__()
        self.base = base
        self._bank = bank
        self.down, self.up = torch.empty(0), torch.empty(0)  # (adapters + 1, rank, in), (adapters + 1, out, rank)
        self.scale: Tensor | None = None  # (adapters + 1, out), with DoRA only

    def forward(self, x: Tensor) -> Tensor:
        """x (rows, time, in) -> (rows, time, out)."""
        y: Tensor = self.base(x)
        rows = self._bank.rows
        if rows is None:
            return y
        assert x.dim() == 3 and len(x) == len(rows), "only layers that see whole rows are adapted"
        down, up = self.down[rows].to(x.dtype), self.up[rows].to(x.dtype)
        update = (x @ down.transpose(1, 2)) @ up.transpose(1, 2)
        if self.scale is None:
            return y + update
        scale = self.scale[rows].to(x.dtype).unsqueeze(1)
        bias = self.base.bias
        plain = y if bias is None else y - bias
        return y + (scale - 1) * plain + scale * update

    def stack(self, layers: Sequence[LoRALinear | None]) -> None:
        """Take the weights of the adapters 1, 2, ... (None: this one leaves the layer alone)."""
        known = [layer for layer in layers if layer is not None]
        rank, first = max(len(layer.lora_A) for layer in known), known[0]
        self.down = first.lora_A.new_zeros(len(layers) + 1, rank, first.lora_A.shape[1])
        self.up = first.lora_A.new_zeros(len(layers) + 1, len(first.lora_B), rank)
        dora = any(layer.magnitude is not None for layer in known)
        self.scale = first.lora_A.new_ones(len(layers) + 1, len(first.lora_B)) if dora else None
        for number, layer in enumerate(layers, 1):
            if layer is None:
                continue
            own = len(layer.lora_A)
            self.down[number, :own] = layer.lora_A.detach()
            self.up[number, :, :own] = layer.lora_B.detach() * layer.scaling
            if self.scale is not None and layer.magnitude is not None:
                self.scale[number] = layer.row_scale().detach()


class AdapterBank:
    """The adapters that are loaded beside a model, by name.

    Attributes:
        module: computes like the base, with each row's adapter.
        rows: (rows,) int64 number of each row's adapter in the coming pass, 0 for none; None: no adapters at all.
    """

    def __init__(self, module: LanguageModel) -> None:
        self._original = self.module = module  # a twin as soon as there are adapters
        self.rows: Tensor | None = None
        self._adapters: dict[str, dict[str, LoRALinear]] = {}
        self._layers: dict[str, BankedLinear] = {}

    @property
    def names(self) -> list[str]:
        """What is loaded."""
        return list(self._adapters)

    def number(self, name: str | None) -> int:
        """Which adapter a name means: 0 for None."""
        return 0 if name is None else 1 + self.names.index(name)

    def require(self, name: str) -> None:
        """Refuse a name that is not loaded."""
        if name not in self._adapters:
            loaded = ", ".join(map(repr, self._adapters)) or "none"
            raise FoundlingError(f"no adapter {name!r} is loaded", f"loaded: {loaded}", nearest(name, self._adapters))

    def load(self, name: str, directory: Path | str) -> None:
        """Load an adapter from PEFT's directory.

        Raises:
            FoundlingError: the name is taken, or the adapter does not fit the model or a batch of several.
        """
        if name in self._adapters:
            raise FoundlingError(f"an adapter {name!r} is loaded already", fix="unload it first, or take another name")
        other = twin(self._original)
        if load_adapter(other, directory).method == "prompt":
            raise FoundlingError(
                f"{directory} is a learned prompt", "prompts are not served beside others", "load it with its base"
            )
        layers = adapter_layers(other)
        for layer in layers:
            self._refuse_partial_rows(layer, directory)
        self._adapters[name] = layers
        self._restack()

    def unload(self, name: str) -> None:
        """Forget an adapter."""
        self.require(name)
        del self._adapters[name]
        self._restack()

    def refresh(self) -> None:
        """Follow the base, whose weights have changed."""
        if not self._adapters:
            return
        self.module, self._layers = twin(self._original), {}
        for layers in self._adapters.values():
            for name, layer in layers.items():
                base = self.module.get_submodule(name)
                assert isinstance(base, (nn.Linear, QuantizedLinear))
                layer.base = base
        self._restack()

    def _restack(self) -> None:
        if self.module is self._original:
            self.module = twin(self._original)
        wanted = dict.fromkeys(name for layers in self._adapters.values() for name in layers)
        for name in [name for name in self._layers if name not in wanted]:
            self.module.set_submodule(name, self._layers.pop(name).base)
        for name in wanted:
            if name not in self._layers:
                base = self.module.get_submodule(name)
                assert isinstance(base, (nn.Linear, QuantizedLinear))
                self._layers[name] = BankedLinear(base, self)
                self.module.set_submodule(name, self._layers[name])
            self._layers[name].stack([layers.get(name) for layers in self._adapters.values()])

    def _refuse_partial_rows(self, layer: str, directory: Path | str) -> None:
        """The head and experts see single tokens of several rows, so that a row's adapter cannot be told there."""
        block = layer.split(".")
        inside = block[0] == "blocks" and block[2] == "ffn"
        if layer == "output" or (inside and isinstance(self._original.config.blocks[int(block[1])].ffn, MoEConfig)):
            raise FoundlingError(
                f"{directory} adapts {layer}", "the head and experts cannot be adapted row by row", "merge it instead"
            )


def twin(module: LanguageModel) -> LanguageModel:
    """A copy of the module on the same weights, whose layers can be replaced and frozen behind the original's back."""
    shared: dict[int, object] = {id(p): nn.Parameter(p.data, requires_grad=False) for p in module.parameters()}
    shared |= {id(buffer): buffer for buffer in module.buffers()}
    for part in module.modules():
        if isinstance(part, QuantizedLinear):
            shared[id(part._kernel)] = part._kernel
    return copy.deepcopy(module, shared).eval()
