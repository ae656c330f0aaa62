"""How a family's tensors correspond to ours: same, transposed, or several packed into one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # families are read by plans and the command line too, which do not wait for torch
    import torch
    from torch import Tensor

# the tensors that one layer may own, in plain and in packed-quantized form
SUFFIXES = ("weight", "bias", "weight_packed", "weight_scale", "weight_shape", "weight_zero_point")


@dataclass(frozen=True)
class Rule:
    """Our tensors `ours` hold the same numbers as their tensors `theirs`.

    Names are patterns: `{i}` is the block. A name of a layer (no tensor suffix) stands for all of its tensors.
    """

    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    read: Callable[[Sequence[Tensor], Sequence[torch.Size]], Sequence[Tensor]]  # (theirs, our shapes) -> ours
    write: Callable[[Sequence[Tensor]], Sequence[Tensor]]  # ours -> theirs


def same(ours: str, theirs: str) -> Rule:
    """One tensor under another name."""
    return Rule((ours,), (theirs,), lambda tensors, shapes: tensors, lambda tensors: tensors)


def expand(rules: Sequence[Rule], n_blocks: int, names: set[str]) -> list[Rule]:
    """The rules with concrete names, for those of our tensors `names` that exist."""
    expanded = []
    for rule in rules:
        for i in range(n_blocks) if "{i}" in rule.ours[0] else (0,):
            for suffix in ("", *(f".{suffix}" for suffix in SUFFIXES)):
                ours = tuple(name.replace("{i}", str(i)) + suffix for name in rule.ours)
                if ours[0] in names:
                    theirs = tuple(name.replace("{i}", str(i)) + suffix for name in rule.theirs)
                    expanded.append(replace(rule, ours=ours, theirs=theirs))
    covered = {name for rule in expanded for name in rule.ours}
    assert covered == names, f"no rule for {sorted(names - covered)[:3]}"
    return expanded
