"""How a family's tensors correspond to ours: same, transposed, several fused into one, or one stacked from several."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # families are read by plans and the command line too, which do not wait for torch
    import torch
    from torch import Tensor

    Read = Callable[[Sequence[Tensor], Sequence[torch.Size]], Sequence[Tensor]]  # (theirs, our shapes) -> ours
    Write = Callable[[Sequence[Tensor]], Sequence[Tensor]]  # ours -> theirs

# the tensors that one layer may own, in plain and in quantized form
PACKED = ("weight_packed", "weight_scale", "weight_shape", "weight_zero_point")
NORMAL_FLOAT = ("weight.absmax", "weight.quant_map", "weight.quant_state.bitsandbytes__nf4")
SUFFIXES = ("weight", "bias", *PACKED, *NORMAL_FLOAT)


@dataclass(frozen=True)
class Rule:
    """Our tensors `ours` hold the same numbers as their tensors `theirs`.

    Names are patterns: `{i}` is the block. A name of a layer (no tensor suffix) stands for all of its tensors.
    """

    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    read: Read
    write: Write


def same(ours: str, theirs: str) -> Rule:
    """One tensor under another name."""
    return Rule((ours,), (theirs,), lambda tensors, shapes: tensors, lambda tensors: tensors)


def transposed(ours: str, theirs: str) -> Rule:
    """Their matrix is (in, out), as in GPT-2."""
    return Rule((ours,), (theirs,), lambda tensors, shapes: [_flip(tensors[0])], lambda tensors: [_flip(tensors[0])])


def fused(ours: Sequence[str], theirs: str, *, flip: bool = False) -> Rule:
    """Our layers, one after the other along the outputs, are one of theirs; `flip`: theirs is (in, out)."""

    def read(tensors: Sequence[Tensor], shapes: Sequence[torch.Size]) -> Sequence[Tensor]:
        whole = _flip(tensors[0]) if flip else tensors[0]
        sizes = [shape[0] for shape in shapes]
        return whole.split(sizes) if whole.shape[0] == sum(sizes) else [whole] * len(sizes)

    def write(tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        import torch

        whole = torch.cat(list(tensors))
        return [_flip(whole) if flip else whole]

    return Rule(tuple(ours), (theirs,), read, write)


def stacked(ours: str, theirs: str, count: int) -> Rule:
    """Our one tensor (count, ...) is `count` of theirs; `{e}` in their name is the index."""

    def read(tensors: Sequence[Tensor], shapes: Sequence[torch.Size]) -> Sequence[Tensor]:
        import torch

        alike = all(tensor.shape == tensors[0].shape for tensor in tensors)
        return [torch.stack(list(tensors))] if alike else [tensors[0]]

    names = tuple(theirs.replace("{e}", str(e)) for e in range(count))
    return Rule((ours,), names, read, lambda tensors: [part.clone() for part in tensors[0]])


def redundant(theirs: str) -> Rule:
    """A tensor that files may carry although it repeats another one or can be computed."""
    return Rule((), (theirs,), lambda tensors, shapes: [], lambda tensors: [])


def expand(rules: Sequence[Rule], n_blocks: int, names: set[str]) -> list[Rule]:
    """The rules with concrete names, for those of our tensors `names` that exist; redundant ones as they are."""
    expanded = [rule for rule in rules if not rule.ours]
    for rule in rules:
        for i in range(n_blocks) if rule.ours and "{i}" in rule.ours[0] else (0,):
            for suffix in ("", *(f".{suffix}" for suffix in SUFFIXES)):
                ours = tuple(name.replace("{i}", str(i)) + suffix for name in rule.ours)
                if ours and ours[0] in names:
                    theirs = tuple(name.replace("{i}", str(i)) + suffix for name in rule.theirs)
                    expanded.append(replace(rule, ours=ours, theirs=theirs))
    covered = {name for rule in expanded for name in rule.ours}
    assert covered == names, f"no rule for {sorted(names - covered)[:3]}"
    return expanded


def _flip(tensor: Tensor) -> Tensor:
    return tensor.t().contiguous() if tensor.dim() == 2 else tensor
