"""Removing whole parts of a model: blocks, heads, feed-forward channels, experts.

What is removed is what contributes least on the calibration text; the last projection of a part that lost inputs is
refitted by least squares to what it gave before. Train the result further to heal it: `foundling distill`.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from foundling.compression.calibration import Moments, embedded, measured
from foundling.compression.config import ShrinkConfig
from foundling.compression.second_order import DAMPING
from foundling.core.errors import FoundlingError
from foundling.models.config import AttentionConfig, BlockConfig, MLPConfig, ModelConfig, MoEConfig
from foundling.models.language_model import LanguageModel
from foundling.models.layers.block import Block
from foundling.models.routing import Routing

State = dict[str, Tensor]


def shrink(module: LanguageModel, tokens: Tensor, config: ShrinkConfig) -> LanguageModel:
    """A smaller model made of the most important parts of `module`; tokens (rows, time) tell which these are.

    Raises:
        FoundlingError: more parts are to be removed than there are, or the model has no such parts.
    """
    if config.layers:
        module = without_layers(module, tokens, config.layers)
    if config.heads or config.channels or config.experts:
        module = narrowed(module, tokens, config)
    return module


def without_layers(module: LanguageModel, tokens: Tensor, count: int) -> LanguageModel:
    """Remove the blocks that turn their input least, one after the other.

    Influence of a block: 1 - mean cosine of its input and output (Men et al. 2024, ShortGPT, arXiv:2403.03853).
    """
    if count >= len(module.blocks):
        raise FoundlingError(f"{count} layers cannot be removed of {len(module.blocks)}")
    left = list(range(len(module.blocks)))
    for _ in range(count):
        influence = _influences(module, tokens, left)
        left.remove(min(left, key=lambda number: influence[number]))
    state: State = {}
    for new, old in enumerate(left):
        state |= {f"blocks.{new}.{name}": part for name, part in module.blocks[old].state_dict().items()}
    state |= {name: part for name, part in module.state_dict().items() if not name.startswith("blocks.")}
    return _assembled(module.config.model_copy(update={"blocks": tuple(module.config.blocks[i] for i in left)}), state)


def narrowed(module: LanguageModel, tokens: Tensor, config: ShrinkConfig) -> LanguageModel:
    """Remove heads, channels and experts from every block, walking through them in order."""
    state = {name: part for name, part in module.state_dict().items() if not name.startswith("blocks.")}
    blocks: list[BlockConfig] = []
    with torch.no_grad():
        hidden, contexts = embedded(module, tokens)
        for number, block in enumerate(module.blocks):
            block = cast(Block, block).eval()
            before = [len(ctx.routing) for ctx in contexts]
            with measured(block) as moments:
                outputs = [block(x, ctx) for x, ctx in zip(hidden, contexts, strict=True)]
            routings = [one for ctx, at in zip(contexts, before, strict=True) for one in ctx.routing[at:]]
            own, shape = _narrowed_block(block, moments, config, number, routings)
            blocks.append(shape)
            state |= {f"blocks.{number}.{name}": part for name, part in own.items()}
            hidden = outputs
    return _assembled(module.config.model_copy(update={"blocks": tuple(blocks)}), state)


def _narrowed_block(
    block: Block, moments: dict[str, Moments], config: ShrinkConfig, number: int, routings: list[Routing]
) -> tuple[State, BlockConfig]:
    state, shape = dict(block.state_dict()), block.config
    if config.heads:
        mixer = shape.mixer
        if not isinstance(mixer, AttentionConfig) or config.heads >= mixer.n_kv_heads:
            has = mixer.n_kv_heads if isinstance(mixer, AttentionConfig) else "none"
            what = f"{config.heads} key/value heads cannot be removed from block {number}"
            raise FoundlingError(what, f"it has {has}")
        mixer = _without_heads(state, mixer, moments["mixer.o_proj"], config.heads)
        shape = shape.model_copy(update={"mixer": mixer})
    if config.channels:
        ffn = shape.ffn
        if not isinstance(ffn, MLPConfig):
            raise FoundlingError(f"block {number} has no plain feed-forward to take channels from")
        shape = shape.model_copy(update={"ffn": _without_channels(state, ffn, moments["ffn.down"], config.channels)})
    if config.experts:
        experts = shape.ffn
        if not isinstance(experts, MoEConfig) or experts.n_experts - config.experts < experts.top_k:
            has = f"{experts.n_experts}, of which a token uses {experts.top_k}" if isinstance(experts, MoEConfig) else 0
            raise FoundlingError(f"{config.experts} experts cannot be removed from block {number}", f"it has {has}")
        if experts.n_groups is not None:
            raise FoundlingError(f"the experts of block {number} form groups", "removing some would break them")
        load = torch.stack([routing.counts for routing in routings]).sum(0)
        shape = shape.model_copy(update={"ffn": _without_experts(state, experts, load, config)})
    return state, shape


def _without_heads(state: State, mixer: AttentionConfig, inputs: Moments, count: int) -> AttentionConfig:
    per_group = mixer.n_heads // mixer.n_kv_heads * mixer.head_dim  # inputs of o_proj of one key/value head
    energy = _energy(state["mixer.o_proj.weight"], inputs, per_group)
    kept = energy.topk(mixer.n_kv_heads - count).indices.sort().values
    wide = _spans(kept, per_group)
    narrow = _spans(kept, mixer.head_dim)
    state["mixer.o_proj.weight"] = refitted(state["mixer.o_proj.weight"], inputs.gram, wide)
    for name, rows in (("q_proj", wide), ("k_proj", narrow), ("v_proj", narrow)):
        _take(state, f"mixer.{name}", rows)
    if mixer.qk_norm is not None and mixer.qk_norm_over == "all":
        _take(state, "mixer.q_norm", wide)
        _take(state, "mixer.k_norm", narrow)
    heads = len(wide) // mixer.head_dim
    return mixer.model_copy(update={"n_heads": heads, "n_kv_heads": len(kept)})


def _without_channels(state: State, ffn: MLPConfig, inputs: Moments, share: float) -> MLPConfig:
    energy = _energy(state["ffn.down.weight"], inputs, 1)
    count = max(32, round(len(energy) * (1 - share) / 32) * 32)  # what kernels and quantized blocks divide into
    kept = energy.topk(min(count, len(energy))).indices.sort().values
    state["ffn.down.weight"] = refitted(state["ffn.down.weight"], inputs.gram, kept)
    for name in ("gate", "up"):
        _take(state, f"ffn.{name}", kept)
    return ffn.model_copy(update={"hidden": len(kept)})


def _without_experts(state: State, ffn: MoEConfig, load: Tensor, config: ShrinkConfig) -> MoEConfig:
    """By how often they are chosen; merging averages weights by use (Li et al. 2023, MC-SMoE, arXiv:2310.01334)."""
    kept = load.topk(ffn.n_experts - config.experts).indices.sort().values
    router = state["ffn.router.weight"]
    if config.merge_experts:
        similar = F.normalize(router, dim=1) @ F.normalize(router[kept], dim=1).t()
        target = kept[similar.argmax(1)]
        target[kept] = kept
        shares = torch.zeros(ffn.n_experts, ffn.n_experts).index_put((target, torch.arange(ffn.n_experts)), load + 1e-6)
        shares = shares[kept] / shares[kept].sum(1, keepdim=True)
        for name in ("gate", "up", "down"):
            state[f"ffn.experts.{name}"] = torch.einsum("ke,eoi->koi", shares, state[f"ffn.experts.{name}"].float())
    else:
        for name in ("gate", "up", "down"):
            state[f"ffn.experts.{name}"] = state[f"ffn.experts.{name}"][kept]
    state["ffn.router.weight"] = router[kept]
    if "ffn.correction_bias" in state:
        state["ffn.correction_bias"] = state["ffn.correction_bias"][kept]
    return ffn.model_copy(update={"n_experts": len(kept)})


def refitted(weight: Tensor, gram: Tensor, kept: Tensor) -> Tensor:
    """The matrix (out, kept) on the kept inputs whose outputs are nearest to those of `weight` (out, in)."""
    g = gram.double()
    inner = g[kept][:, kept]
    inner = inner + torch.eye(len(kept), dtype=g.dtype) * (DAMPING * inner.diagonal().mean()).clamp_min(1e-9)
    return torch.linalg.solve(inner, g[kept] @ weight.double().t()).t().to(weight.dtype).contiguous()


def _energy(weight: Tensor, inputs: Moments, width: int) -> Tensor:
    """(parts,) mean squared output that each run of `width` inputs gives by itself: tr(W_p G_pp W_pᵀ)."""
    parts = [slice(at, at + width) for at in range(0, weight.shape[1], width)]
    if width == 1:
        return weight.float().square().sum(0) * inputs.gram.diagonal()
    return torch.stack([((weight[:, p].float() @ inputs.gram[p, p]) * weight[:, p]).sum() for p in parts])


def _spans(kept: Tensor, width: int) -> Tensor:
    return (kept.unsqueeze(1) * width + torch.arange(width)).flatten()


def _take(state: State, layer: str, rows: Tensor) -> None:
    for name in (f"{layer}.weight", f"{layer}.bias"):
        if name in state:
            state[name] = state[name][rows]


def _influences(module: LanguageModel, tokens: Tensor, left: list[int]) -> dict[int, float]:
    sums = dict.fromkeys(left, 0.0)
    with torch.no_grad():
        for x, ctx in zip(*embedded(module, tokens), strict=True):
            for number in left:
                y = module.blocks[number](x, ctx)
                sums[number] += float((1 - F.cosine_similarity(x, y, dim=-1)).sum())
                x = y
    return sums


def _assembled(config: ModelConfig, state: State) -> LanguageModel:
    with torch.device("meta"):
        module = LanguageModel(config)
    module.load_state_dict(state, assign=True)
    return module.eval()
