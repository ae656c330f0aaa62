"""Paged KV cache bookkeeping: which physical block holds which tokens, and who is using it. No tensors here.

A block holds `block_size` consecutive tokens of one sequence. A full block is published under a chained hash of its
tokens and all tokens before it, so that a later sequence with the same beginning takes the block instead of computing
it again (the scheme of vLLM's automatic prefix caching). Blocks nobody uses any more stay published until their room
is needed; the least recently used goes first.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Sequence as Seq

TRASH = 0  # physical block where padding is written; never handed out


def chain_hash(parent: bytes, tokens: Seq[int]) -> bytes:
    """The name of a full block: a hash of the name of the block before it and of its own tokens."""
    return hashlib.blake2b(parent + array("q", tokens).tobytes(), digest_size=16).digest()


class BlockPool:
    """Hands out blocks, counts references and remembers which contents can be reused.

    Invariant: every block is either referenced (count > 0) or free, and a free block may still be published.

    Args:
        n_blocks: blocks that can be handed out; their ids are 1..n_blocks (0 is the trash block).
        block_size: tokens per block.
    """

    def __init__(self, n_blocks: int, block_size: int) -> None:
        assert n_blocks > 0 and block_size > 0
        self.n_blocks, self.block_size = n_blocks, block_size
        self._references = [0] * (n_blocks + 1)
        self._empty = list(range(n_blocks, 0, -1))  # free, with nothing worth keeping
        self._reusable: OrderedDict[int, None] = OrderedDict()  # free but published, the oldest first
        self._by_name: dict[bytes, int] = {}
        self._names: dict[int, bytes] = {}

    @property
    def n_free(self) -> int:
        """Blocks that can be handed out now."""
        return len(self._empty) + len(self._reusable)

    def blocks_for(self, n_tokens: int) -> int:
        """Blocks that `n_tokens` tokens need."""
        return -(-n_tokens // self.block_size)

    def allocate(self, n: int) -> list[int] | None:
        """`n` blocks with one reference each, or None (and nothing taken) if fewer are free."""
        if n > self.n_free:
            return None
        return [self._take_one() for _ in range(n)]

    def match(self, names: Seq[bytes]) -> list[int]:
        """The published blocks of the longest known beginning of `names`, each with one more reference."""
        found = []
        for name in names:
            block = self._by_name.get(name)
            if block is None:
                break
            self.share(block)
            found.append(block)
        return found

    def unused(self, blocks: Seq[int]) -> list[int]:
        """Those of `blocks` that nobody refers to."""
        return [block for block in blocks if self._references[block] == 0]

    def share(self, block: int) -> None:
        """Take one more reference to a block."""
        if self._references[block] == 0:
            del self._reusable[block]
        self._references[block] += 1

    def publish(self, block: int, name: bytes) -> None:
        """Offer a full, computed block for reuse. A second block with the same content stays unpublished."""
        assert self._references[block] > 0, "only a block in use can be published"
        if name not in self._by_name and block not in self._names:
            self._by_name[name] = block
            self._names[block] = name

    def release(self, blocks: Seq[int]) -> None:
        """Give back one reference to each block; the last block of a chain becomes the first to be evicted."""
        for block in reversed(blocks):
            assert self._references[block] > 0, f"block {block} released more often than it was taken"
            self._references[block] -= 1
            if self._references[block]:
                continue
            if block in self._names:
                self._reusable[block] = None
            else:
                self._empty.append(block)

    def forget(self, blocks: Seq[int] | None = None) -> None:
        """Withdraw published contents: of `blocks`, or of all (after the weights have changed)."""
        for block in list(self._names) if blocks is None else blocks:
            name = self._names.pop(block, None)
            if name is None:
                continue
            del self._by_name[name]
            if block in self._reusable:
                del self._reusable[block]
                self._empty.append(block)

    def check(self) -> None:
        """Assert the invariant: every block is counted exactly once."""
        in_use = {block for block in range(1, self.n_blocks + 1) if self._references[block] > 0}
        free = [*self._empty, *self._reusable]
        assert len(free) == len(set(free)) and not in_use & set(free)
        assert len(in_use) + len(free) == self.n_blocks
        assert all(self._by_name[name] == block for block, name in self._names.items())
        assert len(self._by_name) == len(self._names)
        assert not set(self._names) & set(self._empty) and set(self._reusable) <= set(self._names)

    def _take_one(self) -> int:
        if self._empty:
            block = self._empty.pop()
        else:
            block, _ = self._reusable.popitem(last=False)
            del self._by_name[self._names.pop(block)]
        self._references[block] = 1
        return block
