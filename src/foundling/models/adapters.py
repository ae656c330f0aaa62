"""Adapters: a few trained weights beside a frozen model, put on and taken off from outside.

LoRA (Hu et al. 2021, arXiv:2106.09685), rsLoRA (Kalajdzievski 2023, arXiv:2312.03732), DoRA (Liu et al. 2024,
arXiv:2402.09353) on plain or quantized layers (QLoRA: Dettmers et al. 2023, arXiv:2305.14314), and prompt tuning
(Lester et al. 2021, arXiv:2104.08691). The numbers are PEFT's.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foundling.core.errors import FoundlingError, nearest
from foundling.core.rng import torch_generator
from foundling.models.adapter_config import ALL_LINEAR, AdapterConfig
from foundling.models.families import family_for
from foundling.models.language_model import LanguageModel
from foundling.models.quantized import QuantizedLinear, Scheme
from foundling.models.rounding import quantize_linear
from foundling.models.tensor_rules import expand


class LoRALinear(nn.Module):
    """y = W x + b + s·B(A(x)), W frozen; with DoRA each output row is rescaled to a learned magnitude.

    Args:
        base: the frozen layer, plain or quantized.
        rank: A is (rank, in) and B (out, rank); B starts at zero, so that the layer starts as it was.
    """

    def __init__(self, base: nn.Linear | QuantizedLinear, config: AdapterConfig, generator: torch.Generator) -> None:
        super().__init__()
        self.base, self.scaling, self.dropout = base, config.scaling, config.dropout
        self.enabled = True
        bound = 1 / math.sqrt(base.in_features)  # Kaiming uniform with a = √5, PEFT's choice
        start = torch.empty(config.rank, base.in_features).uniform_(-bound, bound, generator=generator)
        where = next(tensor for tensor in (*base.parameters(), *base.buffers())).device
        self.lora_A = nn.Parameter(start.to(where))
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, config.rank, device=where))
        self.magnitude: nn.Parameter | None = None
        if config.method == "dora":
            self.magnitude = nn.Parameter(self._frozen().norm(dim=1))

    def forward(self, x: Tensor) -> Tensor:
        """x (..., in) -> (..., out)."""
        if self.enabled and self._fused(x):
            a, b = self.lora_A.to(x.dtype), self.lora_B.to(x.dtype)
            adapted: Tensor = _LowRank.apply(x, self.base.weight, self.base.bias, a, b, self.scaling)
            return adapted
        y: Tensor = self.base(x)
        if not self.enabled:
            return y
        kept = F.dropout(x, self.dropout, self.training)
        update = F.linear(F.linear(kept, self.lora_A.to(x.dtype)), self.lora_B.to(x.dtype))
        if self.magnitude is None:
            return torch.add(y, update, alpha=self.scaling)
        scale = self.row_scale().to(x.dtype)  # (out,)
        plain = y if self.dropout == 0 or not self.training else self.base(kept)
        if self.base.bias is not None:
            plain = plain - self.base.bias
        return y + (scale - 1) * plain + scale * update * self.scaling

    def _fused(self, x: Tensor) -> bool:
        """Whether `_LowRank` computes this layer: plain LoRA on dense frozen weights, all of one dtype."""
        dropped = self.dropout > 0 and self.training
        if self.magnitude is not None or dropped or torch.is_autocast_enabled(x.device.type):
            return False
        base = self.base
        return isinstance(base, nn.Linear) and base.weight.dtype == x.dtype and not base.weight.requires_grad

    def merged_weight(self) -> Tensor:
        """W + s·BA, rescaled for DoRA: (out, in) in the base weight's dtype, or in float32 if that is quantized."""
        weight = torch.addmm(self._frozen(), self.lora_B.float(), self.lora_A.float(), alpha=self.scaling)
        if self.magnitude is not None:
            weight = weight * (self.magnitude.float() / weight.norm(dim=1))[:, None]
        return weight if isinstance(self.base, QuantizedLinear) else weight.to(self.base.weight.dtype)

    def _frozen(self) -> Tensor:
        base = self.base
        return base.dequantized(torch.float32) if isinstance(base, QuantizedLinear) else base.weight.detach().float()

    def row_scale(self) -> Tensor:
        """magnitude / ‖row of W + s·BA‖; the norm is constant to the gradient (DoRA, section 4.3)."""
        assert self.magnitude is not None
        update = self.lora_B.detach().float() @ self.lora_A.detach().float()
        norm = (self._frozen() + self.scaling * update).norm(dim=1)
        return self.magnitude.float() / norm


class _LowRank(torch.autograd.Function):
    """W x + b + s·B(A(x)) with W and b frozen, in the fewest passes over memory that the products allow.

    Written out, autograd scales and sums tensors as wide as the layer: next to a frozen layer, whose weights need no
    gradient, that takes as long as the products.
    """

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scaling: float
    ) -> Tensor:
        rows = x.flatten(0, -2)
        inner = rows @ a.T  # (n, rank)
        ctx.save_for_backward(rows, weight, a, b, inner)
        ctx.scaling, ctx.shape = scaling, x.shape
        return F.linear(rows, weight, bias).addmm_(inner, b.T, alpha=scaling).view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        rows, weight, a, b, inner = ctx.saved_tensors
        grad = grad.reshape(-1, grad.shape[-1])  # (n, out)
        grad_inner = (grad @ b).mul_(ctx.scaling)  # (n, rank)
        grad_a, grad_b = grad_inner.T @ rows, (grad.T @ inner).mul_(ctx.scaling)
        grad_x = (grad @ weight).addmm_(grad_inner, a).view(ctx.shape) if ctx.needs_input_grad[0] else None
        return grad_x, None, None, grad_a, grad_b, None


class PromptEmbedding(nn.Module):
    """Token embeddings continued by learned vectors: id `vocab + k` is the k-th vector of the prompt.

    The virtual tokens are then ordinary ids to batches, caches and the engine; the head does not know them.
    """

    def __init__(self, base: nn.Embedding, virtual_tokens: int, generator: torch.Generator) -> None:
        super().__init__()
        self.base = base
        chosen = torch.randint(base.num_embeddings, (virtual_tokens,), generator=generator)
        self.prompt = nn.Parameter(base.weight.detach()[chosen].clone().float())

    @property
    def weight(self) -> Tensor:
        """The tokens' own vectors, for a tied head."""
        return self.base.weight

    @property
    def num_embeddings(self) -> int:
        """Ids that have a vector, the virtual ones included."""
        return self.base.num_embeddings + len(self.prompt)

    @property
    def virtual_ids(self) -> list[int]:
        """The ids of the prompt, to be put before a text's own."""
        return list(range(self.base.num_embeddings, self.base.num_embeddings + len(self.prompt)))

    def forward(self, ids: Tensor) -> Tensor:
        """ids (...) -> (..., dim)."""
        known = self.base.num_embeddings
        plain: Tensor = self.base(ids.clamp(max=known - 1))
        virtual = F.embedding((ids - known).clamp(min=0), self.prompt.to(plain.dtype))
        return torch.where((ids >= known).unsqueeze(-1), virtual, plain)


def attach(module: LanguageModel, config: AdapterConfig, seed: int) -> list[str]:
    """Freeze a model and put an adapter on it, in place; only the adapter's weights require gradients.

    Returns:
        Our names of the adapted layers.

    Raises:
        FoundlingError: a target names no linear layer.
    """
    module.requires_grad_(False)
    if config.method == "prompt":
        embedding = PromptEmbedding(module.embedding, config.virtual_tokens, torch_generator(seed, "prompt"))
        module.embedding = embedding  # type: ignore[assignment]
        return ["embedding"]
    names = targeted(module, config.targets)
    for name in names:
        base = module.get_submodule(name)
        assert isinstance(base, (nn.Linear, QuantizedLinear))
        if isinstance(base, nn.Linear) and config.base != "as-is":
            base = quantize_linear(base, _scheme(config.base, base.in_features))
        module.set_submodule(name, LoRALinear(base, config, torch_generator(seed, "lora", name)))
    return names


def targeted(module: LanguageModel, targets: tuple[str, ...]) -> list[str]:
    """Our names of the layers that the targets mean, in the model's order.

    Raises:
        FoundlingError: a target names no linear layer, or one that Hugging Face keeps as a part of a larger one.
    """
    theirs = hugging_face_layers(module)
    if ALL_LINEAR in targets:
        return [name for name in theirs if name != "output"]
    for target in targets:
        if not any(_ends_in(name, target) for name in theirs.values()):
            options = sorted({name.rpartition(".")[2] for name in theirs.values()})
            raise FoundlingError(
                f"no layer of this model is called {target!r}",
                f"layers: {', '.join(options)}",
                nearest(target, options),
            )
    return [name for name, their in theirs.items() if any(_ends_in(their, target) for target in targets)]


def hugging_face_layers(module: LanguageModel) -> dict[str, str]:
    """Our name of every linear layer that is one layer there too -> its Hugging Face name."""
    linear = [name for name, part in module.named_modules() if isinstance(part, (nn.Linear, QuantizedLinear))]
    state = {name.replace(".base.", "."): None for name in module.state_dict() if ".lora_" not in name}
    names = {name for name in state if not name.endswith((".magnitude", ".prompt"))}
    found = {}
    for rule in expand(family_for(module.config.family).rules(module.config), module.config.n_layers, names):
        if len(rule.ours) == 1 and len(rule.theirs) == 1:
            found[rule.ours[0].rpartition(".")[0]] = rule.theirs[0].rpartition(".")[0]
    return {name: found[plain] for name in linear if (plain := name.removesuffix(".base")) in found}


def adapter_layers(module: nn.Module) -> dict[str, LoRALinear]:
    """The adapted layers of a model by our name."""
    return {name: part for name, part in module.named_modules() if isinstance(part, LoRALinear)}


@contextlib.contextmanager
def disabled(module: nn.Module) -> Iterator[None]:
    """The model without its LoRA while the block runs: the reference of preference losses, at no memory."""
    layers = adapter_layers(module).values()
    for layer in layers:
        layer.enabled = False
    try:
        yield
    finally:
        for layer in layers:
            layer.enabled = True


def merge(module: LanguageModel) -> None:
    """Replace every adapted layer by a plain one that computes the same within rounding (checked), in place.

    Raises:
        FoundlingError: a learned prompt is no weight of the model and cannot be merged.
    """
    if isinstance(module.embedding, PromptEmbedding):
        raise FoundlingError(
            "a learned prompt cannot be merged into the weights", fix="Use the adapter beside its base"
        )
    for name, layer in adapter_layers(module).items():
        plain = _plain(layer)
        _require_same(layer, plain, name)
        module.set_submodule(name, plain)


def _scheme(base: str, in_features: int) -> Scheme:
    """QLoRA's groups of 64 for nf4, of 32 for int4, or the largest smaller power of two that divides the inputs."""
    if base == "nf4":
        return Scheme(numbers="nf4", group_size=math.gcd(64, in_features))
    return Scheme(bits=4, group_size=math.gcd(32, in_features))


def _plain(layer: LoRALinear) -> nn.Linear:
    bias = layer.base.bias
    plain = nn.Linear(layer.base.in_features, layer.base.out_features, bias is not None, device="meta")
    plain.weight = nn.Parameter(layer.merged_weight(), requires_grad=False)
    plain.register_parameter("bias", bias)
    return plain


def _require_same(layer: LoRALinear, plain: nn.Linear, name: str) -> None:
    """Both layers on one random input, apart by no more than rounding: eps · (|W| |x| + |B| |A| |x|), a few times."""
    dtype = plain.weight.dtype
    x = torch.randn(1, plain.in_features, generator=torch.Generator().manual_seed(0)).to(plain.weight.device, dtype)
    training, layer.training = layer.training, False
    with torch.no_grad():
        difference = (layer(x) - plain(x)).float().abs()
        inner = layer.lora_B.float().abs() @ (layer.lora_A.float().abs() @ x[0].float().abs())
        size = plain.weight.float().abs() @ x[0].float().abs() + layer.scaling * inner
    layer.training = training
    assert bool((difference <= 8 * torch.finfo(dtype).eps * size + 1e-6).all()), f"merging {name} changed the model"


def detach(module: LanguageModel) -> None:
    """Take the adapter off, in place."""
    if isinstance(module.embedding, PromptEmbedding):
        module.embedding = module.embedding.base
    for name, layer in adapter_layers(module).items():
        module.set_submodule(name, layer.base)


def _ends_in(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")
