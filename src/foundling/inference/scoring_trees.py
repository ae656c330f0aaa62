"""Scores of many continuations at once, each shared beginning computed once, in few large passes.

All pairs are known beforehand, so what they share need not be discovered. A context and its continuations are one row,
a tree of tokens: continuations branch off the context's last token and see only their own branch. Rows that begin
alike (the worked examples of a few-shot task) stand behind one prefix, computed once. Rows of similar length share a
pass, and only outputs that predict a target go through the head.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from foundling.inference.requests import Score
from foundling.inference.runner import Runner, inference_of
from foundling.inference.scoring_passes import Forward, ModuleBehind, NativeBehind, PackedBehind
from foundling.models.kernels.packed import packed
from foundling.models.layers.paged import PagedKV, PagedLatent
from foundling.models.quantized import QuantizedLinear

Pair = tuple[Sequence[int], Sequence[int]]  # token ids of (context, continuation)
LONGEST = 4096  # tokens of a row: its mask has the square of that; longer pairs go through the paged cache
SHARED = 48  # tokens that contexts must have in common to stand behind a prefix of their own
HEAD_VALUES = 1 << 22  # logits computed at a time: bounds memory where the vocabulary is large


@dataclass
class Row:
    """A context behind its prefix, and the tree of what follows it.

    Args:
        tokens: the context's, then those of the branches.
        parents: index of the token before each; -1: the prefix's last one.
        outputs, targets, owners: outputs[i] predicts the token targets[i] of the pair owners[i].
    """

    tokens: list[int]
    parents: list[int] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)
    owners: list[int] = field(default_factory=list)

    @classmethod
    def of(cls, context: Sequence[int], continuations: Sequence[tuple[int, Sequence[int]]]) -> Row:
        """The row of one context and its (pair, continuation)s; equal beginnings of continuations are shared too."""
        row = cls(list(context), list(range(-1, len(context) - 1)))
        children: dict[tuple[int, int], int] = {}
        for owner, continuation in continuations:
            node = len(context) - 1
            for place, token in enumerate(continuation, 1):
                row.outputs.append(node)
                row.targets.append(token)
                row.owners.append(owner)
                if place == len(continuation):  # the last token is only ever a target
                    break
                if (node, token) not in children:
                    children[node, token] = len(row.tokens)
                    row.tokens.append(token)
                    row.parents.append(node)
                node = children[node, token]
        return row

    @property
    def branches(self) -> bool:
        """Whether some token does not follow the one before it in the row."""
        return any(parent != place - 1 for place, parent in enumerate(self.parents))

    def positions(self) -> npt.NDArray[np.int64]:
        """(tokens,) depth of each token in the tree."""
        depths = np.zeros(len(self.tokens), dtype=np.int64)
        for place, parent in enumerate(self.parents):
            depths[place] = depths[parent] + 1 if parent >= 0 else 0
        return depths

    def visible(self) -> npt.NDArray[np.bool_]:
        """(tokens, tokens): every token sees itself and those it descends from."""
        seen = np.eye(len(self.tokens), dtype=bool)
        for place, parent in enumerate(self.parents):
            if parent >= 0:
                seen[place] |= seen[parent]
        return seen


@dataclass(frozen=True)
class Group:
    """Rows behind one prefix (which may be empty)."""

    prefix: tuple[int, ...]
    rows: list[Row]


def suits(runner: Runner) -> bool:
    """Whether a model can be scored this way: dense weights, no encoder, no state but keys and values as they are."""
    plain = all(type(layer) in (PagedKV, PagedLatent) for layer in runner.state)
    dense = not any(isinstance(part, QuantizedLinear) for part in runner.module.modules())
    return plain and dense and runner.module.encoder is None and not runner.batch_invariant


def plan(pairs: Sequence[Pair], longest: int = LONGEST) -> tuple[list[Group], list[int]]:
    """Groups of rows for the pairs, and the pairs that are too long for a row."""
    contexts: dict[tuple[int, ...], list[tuple[int, Sequence[int]]]] = {}
    for index, (context, continuation) in enumerate(pairs):
        contexts.setdefault(tuple(context), []).append((index, continuation))
    rest: list[int] = []
    fitting = []
    for context in sorted(contexts):
        if len(context) + sum(len(c) - 1 for _, c in contexts[context]) > longest:
            rest += [index for index, _ in contexts[context]]
        else:
            fitting.append(context)
    groups: list[Group] = [Group((), [])]
    for shared, members in _alike(fitting):
        rows = [Row.of(context[shared:], contexts[context]) for context in members]
        if shared:
            groups.append(Group(members[0][:shared], rows))
        else:
            groups[0].rows.extend(rows)
    return [group for group in groups if group.rows], rest


def _alike(contexts: Sequence[tuple[int, ...]]) -> Iterator[tuple[int, list[tuple[int, ...]]]]:
    """Sorted contexts in runs that share a beginning, and how many tokens of it; 0: too little to be worth a pass."""
    members: list[tuple[int, ...]] = []
    shared = 0  # of the run so far
    for context in contexts:
        common = _common(members[-1], context) if members else 0
        together = min(shared, common) if len(members) > 1 else common
        # A run goes on while one more member, with the beginning that is then left, saves more than it did.
        if members and together >= SHARED and together * len(members) >= shared * (len(members) - 1):
            members.append(context)
            shared = together
        else:
            if members:
                yield (shared if len(members) > 1 else 0), members
            members, shared = [context], 0
    if members:
        yield (shared if len(members) > 1 else 0), members


def _common(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    """Equal leading tokens; at least one token of each context is left for its own row."""
    most = min(len(a), len(b)) - 1
    different = np.flatnonzero(np.array(a[:most]) != np.array(b[:most]))
    return int(different[0]) if different.size else most


class TreeScorer:
    """Scores pairs on a runner's module. `tokens` counts what went through the model, padding left out."""

    def __init__(self, runner: Runner) -> None:
        self.runner, self.tokens, self.passes = runner, 0, 0
        own_dtype = next(runner.module.parameters()).dtype == runner.dtype
        self._packed = packed(runner.module) if own_dtype else None

    def score(self, groups: Sequence[Group], wanted: frozenset[int] | None = None) -> Iterator[tuple[int, Score]]:
        """(pair, score) of all pairs, pass by pass. Passes that hold no `wanted` pair are left out."""
        for group in groups:
            forward = self._forward_of(group)
            batches = [batch for batch in _batches(group.rows, forward) if wanted is None or _has(batch, wanted)]
            if group.prefix and batches:
                forward.read(torch.tensor([group.prefix], device=self.runner.device))
                self.tokens += len(group.prefix)
                self.passes += 1
            for batch in batches:
                for index, score in self._pass(batch, forward):
                    if wanted is None or index in wanted:
                        yield index, score

    def _forward_of(self, group: Group) -> Forward:
        decoder = self.runner.native_decoder
        if decoder is not None and decoder.tiles and not any(row.branches for row in group.rows):
            return NativeBehind(decoder, self.runner.dtype, len(group.prefix))
        longest = len(group.prefix) + max(len(row.tokens) for row in group.rows)
        mixers = [block.mixer for block in self.runner.module.config.blocks]
        windowed = any(mixer.window and mixer.window < longest for mixer in mixers if mixer.kind == "attention")
        if self._packed is not None and not (windowed and group.prefix):
            return PackedBehind(self._packed)
        return ModuleBehind(self.runner)

    def _pass(self, rows: list[Row], forward: Forward) -> Iterator[tuple[int, Score]]:
        device, time = self.runner.device, max(len(row.tokens) for row in rows)
        lengths = np.array([len(row.tokens) for row in rows])
        valid = np.arange(time) < lengths[:, None]
        tokens = np.zeros((len(rows), time), dtype=np.int64)
        positions = np.zeros((len(rows), time), dtype=np.int64)
        for at, row in enumerate(rows):
            tokens[at, : lengths[at]] = row.tokens
            positions[at, : lengths[at]] = forward.start + row.positions()
        tree = _tree(rows, time, device) if any(row.branches for row in rows) else None
        firsts = np.cumsum(lengths) - lengths
        outputs = [int(first) + output for first, row in zip(firsts, rows, strict=True) for output in row.outputs]
        with inference_of(self.runner.module), self.runner.precision():
            ids, places, there = (torch.from_numpy(part).to(device) for part in (tokens, positions, valid))
            hidden = forward.hidden(ids, places, there, torch.tensor(outputs, device=device), tree)
            logprobs, greedy = self._targets(hidden, [target for row in rows for target in row.targets])
        self.tokens += int(lengths.sum())
        self.passes += 1
        owners = [owner for row in rows for owner in row.owners]
        for owner, mine in groupby(zip(owners, logprobs, greedy, strict=True), key=lambda found: found[0]):
            _, each, exact = zip(*mine, strict=True)
            yield owner, Score(float(sum(each)), list(each), all(exact))

    def _targets(self, hidden: Tensor, targets: list[int]) -> tuple[list[float], list[bool]]:
        """log p of each target after hidden states (targets, dim), and whether it is the likeliest token."""
        module = self.runner.module
        size = max(1, HEAD_VALUES // module.config.vocab_size)
        logprobs: list[float] = []
        greedy: list[bool] = []
        for at in range(0, len(targets), size):
            logits = module.head(hidden[at : at + size]).float()
            chosen = logits.gather(1, torch.tensor(targets[at : at + size], device=logits.device)[:, None])[:, 0]
            top = logits.amax(-1)
            total = logits.sub_(top[:, None]).exp_().sum(-1).log_() + top
            logprobs += (chosen - total).tolist()
            greedy += (chosen >= top).tolist()
        return logprobs, greedy


def _tree(rows: list[Row], time: int, device: torch.device) -> Tensor:
    """(rows, time, time) bool: which of its row's tokens each sees; padding sees itself."""
    visible = np.zeros((len(rows), time, time), dtype=bool)
    visible[:, np.arange(time), np.arange(time)] = True
    for at, row in enumerate(rows):
        visible[at, : len(row.tokens), : len(row.tokens)] = row.visible()
    return torch.from_numpy(visible).to(device)


def _batches(rows: list[Row], forward: Forward) -> Iterator[list[Row]]:
    """Rows of similar length together, as many as a pass has room for (or one)."""
    batch: list[Row] = []
    for row in sorted(rows, key=lambda row: -len(row.tokens)):
        if batch and (len(batch) + 1) * forward.room(len(batch[0].tokens)) > forward.pass_tokens:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _has(batch: list[Row], wanted: frozenset[int]) -> bool:
    return any(owner in wanted for row in batch for owner in row.owners)
