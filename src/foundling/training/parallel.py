"""Spreading a model over the processes of a World: applied from outside, in visible order."""

from __future__ import annotations

from functools import partial
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from foundling.core.errors import FoundlingError
from foundling.models.config import AttentionConfig, MLPConfig
from foundling.training.config import TrainingConfig
from foundling.training.dropout import add_dropout
from foundling.training.float8 import use_float8
from foundling.training.world import World

COLUMNS = ("mixer.q_proj", "mixer.k_proj", "mixer.v_proj", "ffn.gate", "ffn.up")  # split by output: whole heads
ROWS = ("mixer.o_proj", "ffn.down")  # split by input: the slices' results are added up
PER_HEAD = ("q_norm", "k_norm")  # shared by all heads, of which each slice has only some


def parallelize(module: nn.Module, world: World, config: TrainingConfig) -> None:
    """Give every process the same weights, then slice, recompute, compile and shard a LanguageModel in place.

    Raises:
        FoundlingError: the heads or the feed-forward width cannot be divided among the tensor slices.
    """
    if config.dropout:
        add_dropout(module, config.dropout)
    if config.precision == "fp8":
        use_float8(module)
    if world.size > 1:
        for parameter in module.parameters():
            dist.broadcast(parameter.data, src=0)
    if world.slices > 1:  # first, so that sharding divides what is left of each matrix
        _slice_tensors(module, world)
    if config.recompute != "none":  # inside the shards: a block is gathered once for its recomputation and its gradient
        _recompute(module, every=1 if config.recompute == "all" else 2, bound=world.shards == 1)
    if (
        config.compile
    ):  # with the recomputation, so that both are one graph; block by block, so that one graph serves all
        for block in cast(Any, module).blocks:
            block.compile()
    if world.shards > 1:  # last: it gathers and frees whole blocks, with all that was applied to them
        _shard(module, world, config)
    if world.slices > 1:
        named = module.named_parameters()
        world.partial = [p for name, p in named if p.requires_grad and name.split(".")[-2] in PER_HEAD]


def _slice_tensors(module: nn.Module, world: World) -> None:
    """Tensor parallelism (Shoeybi et al. 2019, Megatron-LM): a process computes some heads and some hidden units."""
    mesh = _mesh(world)["tensor"]
    for block in cast(Any, module).blocks:
        _require_divisible(block, world.slices)
        plan: dict[str, Any] = {name: ColwiseParallel() for name in COLUMNS} | {
            name: RowwiseParallel() for name in ROWS
        }
        parallelize_module(block, mesh, {name: style for name, style in plan.items() if _has(block, name)})
        heads = {name: getattr(block.mixer.config, name) // world.slices for name in ("n_heads", "n_kv_heads")}
        block.mixer.config = block.mixer.config.model_copy(update=heads)


def _require_divisible(block: Any, slices: int) -> None:
    mixer, ffn = block.config.mixer, block.config.ffn
    if not (isinstance(mixer, AttentionConfig) and isinstance(ffn, MLPConfig)):
        raise FoundlingError("only attention and plain feed-forwards can be sliced", fix="Set tensor to 1")
    for what, count in (("heads", mixer.n_heads), ("key/value heads", mixer.n_kv_heads), ("hidden units", ffn.hidden)):
        if count % slices:
            raise FoundlingError(f"{count} {what} cannot be divided among {slices} tensor slices", fix="Change tensor")


def _has(block: nn.Module, name: str) -> bool:
    return any(found == name for found, _ in block.named_modules())


def _recompute(module: nn.Module, every: int, *, bound: bool) -> None:
    """Keep only the input of every n-th block, and run the block again for its gradient (Chen et al. 2016).

    Args:
        bound: run it again with the weights of the first time: those of `LossAt` are gone by then. Not under FSDP2,
            which gathers them again by itself.
    """
    for block in list(cast(Any, module).blocks)[::every]:
        block.forward = partial(_run_again, _Bound(block) if bound else block.forward)


def _run_again(forward: Any, *arguments: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*arguments)
    again = forward.now() if isinstance(forward, _Bound) else forward
    return checkpoint(again, *arguments, use_reentrant=False)


class _Bound(nn.Module):
    """A block's own forward pass, whose weights of now can be kept for later."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block, self.plain = block, block.forward

    def forward(self, *arguments: Any) -> Any:
        return self.plain(*arguments)

    def now(self) -> Any:
        weights: dict[str, Tensor] = dict(self.named_parameters())
        return lambda *arguments: functional_call(self, weights, arguments)


def _shard(module: nn.Module, world: World, config: TrainingConfig) -> None:
    """FSDP2 (Zhao et al. 2023): each process keeps a part of every weight, gradient and optimizer state.

    With replicas beside the shards this is hybrid sharding. Gradients are summed, not averaged: the loop divides once.
    """
    mesh = _mesh(world)["replica", "shard"] if world.replicas > 1 else _mesh(world)["shard"]
    kind = torch.bfloat16 if config.precision != "fp32" else None
    options: dict[str, Any] = {
        "mesh": mesh,
        "mp_policy": MixedPrecisionPolicy(param_dtype=kind, reduce_dtype=torch.float32),
    }
    for block in cast(Any, module).blocks:
        fully_shard(block, **options)
    fully_shard(module, **options)
    register_fsdp_forward_method(module, "hidden")  # objectives call this, not forward
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.set_gradient_divide_factor(1.0)
            part.set_force_sum_reduction_for_comms(True)  # gloo knows no other


def _mesh(world: World) -> DeviceMesh:
    assert world.mesh is not None
    return world.mesh
