"""Which sequence computes which tokens in the next step: continuous batching with chunked prefill. No tensors here.

Every step has a token budget. Running sequences come first, in the order they were admitted (a decoding sequence
takes one token, one that is still reading its prompt takes a chunk), then waiting ones are admitted while slots,
blocks and budget last. When blocks run out, the sequence admitted last is preempted: its blocks are released and it
waits again, to be recomputed (what it has generated is kept). A sequence whose beginning another one is computing
right now waits for it and takes its blocks.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from itertools import islice

from foundling.inference.blocks import BlockPool, chain_hash


@dataclass(eq=False, slots=True)
class Sequence:
    """One token sequence and its place in the cache.

    Args:
        id: the caller's name for it.
        tokens: the prompt, then what has been generated.
        limit: the most tokens it may ever have.
        logits_from: first position whose output is wanted, for scoring a prompt; None: only the last one's.
        root: what makes equal tokens differ in the cache, such as an adapter.
        adapter: name of the adapter that computes it; None: the model itself.
        source: what an encoder reads before the first token; it counts in the budget of the step that admits it.
    """

    id: int
    tokens: list[int]
    limit: int
    logits_from: int | None = None
    root: bytes = b""
    adapter: str | None = None
    source: tuple[int, ...] = ()
    prompt_length: int = field(init=False)
    prompt_name: bytes = field(init=False)
    slot: int = 0  # row of the engine's tables while running; 0: not running
    blocks: list[int] = field(default_factory=list)
    cached: int = 0  # tokens whose keys and values are in the cache
    draft: list[int] = field(default_factory=list)  # guesses of the next tokens, to be computed along with the last
    admissions: int = 0  # how often it has been given a slot
    reused: int = 0  # of the cached tokens, how many were taken from other sequences when last admitted
    published: int = 0  # full blocks already offered for reuse
    names: list[bytes] = field(default_factory=list)  # chained hashes of the full blocks
    preemptions: int = 0

    def __post_init__(self) -> None:
        assert self.tokens, "a sequence has at least one token"
        self.prompt_length = len(self.tokens)
        self.prompt_name = chain_hash(self.root, self.tokens)

    @property
    def reusable(self) -> int:
        """How many leading tokens may come from the cache: what is left must still give the logits wanted."""
        last = len(self.tokens) - 1
        return last if self.logits_from is None else min(self.logits_from, last)


@dataclass(frozen=True, slots=True)
class Chunk:
    """Tokens [start, start + length) of a sequence and its draft, to be computed in one step.

    Args:
        draft: how many of them, the last ones, are the draft's.
    """

    sequence: Sequence
    start: int
    length: int
    draft: int = 0

    @property
    def complete(self) -> bool:
        """Whether its outputs predict the sequence's next token (and what would follow each token of the draft)."""
        return self.start + self.length - self.draft == len(self.sequence.tokens)

    @property
    def tokens(self) -> list[int]:
        """The token ids."""
        sequence, end = self.sequence, self.start + self.length
        if not self.draft:
            return sequence.tokens[self.start : end]
        known = len(sequence.tokens)
        return sequence.tokens[self.start :] + sequence.draft[max(0, self.start - known) : end - known]


@dataclass(frozen=True, slots=True)
class Plan:
    """One step's work.

    Args:
        chunks: what to compute, at most one chunk per sequence.
        copies: (source, destination) blocks to copy first.
        exhausted: sequences that cannot go on because no block is left even for them alone; finish them.
    """

    chunks: list[Chunk]
    copies: list[tuple[int, int]]
    exhausted: list[Sequence]


class Scheduler:
    """Decides each step's work and keeps the block accounts.

    Args:
        blocks: the pool to draw from.
        max_batch: most sequences running at once; each holds a slot in 1..max_batch.
        max_tokens_per_step: token budget of a step.
        max_chunk: longest piece of a prompt computed in one step.
        share: whether sequences may use each other's blocks (no, for models with recurrent state).
        lookahead: tokens' room that a sequence gets beyond what it computes (for a draft model).
    """

    def __init__(
        self,
        blocks: BlockPool,
        max_batch: int,
        max_tokens_per_step: int,
        max_chunk: int,
        share: bool = True,
        lookahead: int = 0,
    ) -> None:
        assert max_batch > 0 and max_tokens_per_step > 0 and max_chunk > 0
        self.blocks, self.share, self.lookahead = blocks, share, lookahead
        self.max_tokens_per_step, self.max_chunk = max_tokens_per_step, max_chunk
        self.max_batch = max_batch
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.preemptions = 0
        self._slots = list(range(max_batch, 0, -1))
        self._computing: dict[bytes, Sequence] = {}  # blocks that a running sequence is about to publish
        self._twins: dict[bytes, Sequence] = {}  # name of a prompt -> running sequence that has it

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self.running and not self.waiting

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence."""
        self.waiting.append(sequence)

    def finish(self, sequence: Sequence) -> None:
        """Take a sequence out, wherever it is, and release what it holds."""
        if sequence.slot:
            self._leave(sequence)
        else:
            self.waiting.remove(sequence)

    def restart(self) -> None:
        """Forget everything computed so far; running sequences will be recomputed."""
        while self.running:
            self._preempt(self.running[-1])
        self.blocks.forget()

    def schedule(self) -> Plan:
        """Choose the next step's work. Call `commit` once it has been computed."""
        budget = self.max_tokens_per_step
        plan = Plan([], [], [])
        preempted = self.preemptions
        at = 0
        while at < len(self.running) and budget > 0:
            sequence = self.running[at]
            length = min(len(sequence.tokens) - sequence.cached, budget, self.max_chunk)
            complete = sequence.cached + length == len(sequence.tokens)
            draft = min(len(sequence.draft), budget - length) if complete else 0
            length += draft
            if not self._make_room(sequence, sequence.cached + length + self.lookahead):
                if sequence.slot:
                    plan.exhausted.append(sequence)
                    at += 1
                continue
            plan.chunks.append(Chunk(sequence, sequence.cached, length, draft))
            budget -= length
            at += 1
        if self.preemptions == preempted:
            self._admit(plan, budget)
        return plan

    def commit(self, plan: Plan) -> None:
        """Record that a plan has been computed, and offer its full blocks for reuse."""
        size = self.blocks.block_size
        for chunk in plan.chunks:
            sequence = chunk.sequence
            sequence.cached = chunk.start + chunk.length - chunk.draft
            if self.share and sequence.cached // size > sequence.published:
                self._publish(sequence)

    def _publish(self, sequence: Sequence) -> None:
        full = sequence.cached // self.blocks.block_size
        self._name_blocks(sequence, full)
        for index in range(sequence.published, full):
            self.blocks.publish(sequence.blocks[index], sequence.names[index])
            self._computing.pop(sequence.names[index], None)
        sequence.published = full

    def _name_blocks(self, sequence: Sequence, count: int) -> None:
        size, names = self.blocks.block_size, sequence.names
        for index in range(len(names), count):
            parent = names[-1] if names else sequence.root
            names.append(chain_hash(parent, sequence.tokens[index * size : (index + 1) * size]))

    def _make_room(self, sequence: Sequence, n_tokens: int) -> bool:
        """Give a running sequence blocks for `n_tokens`, preempting later ones (or, as the last, itself)."""
        room = min(n_tokens, max(sequence.limit, len(sequence.tokens)))
        missing = self.blocks.blocks_for(room) - len(sequence.blocks)
        if missing <= 0:
            return True
        while (taken := self.blocks.allocate(missing)) is None:
            victim = self.running[-1]
            if victim is sequence and len(self.running) == 1:
                return False
            self._preempt(victim)
            if victim is sequence:
                return False
        sequence.blocks += taken
        return True

    def _preempt(self, sequence: Sequence) -> None:
        self._leave(sequence)
        self.waiting.appendleft(sequence)
        sequence.preemptions += 1
        self.preemptions += 1

    def _leave(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        self._slots.append(sequence.slot)
        self.blocks.release(sequence.blocks)
        for name in sequence.names[sequence.published :]:
            if self._computing.get(name) is sequence:
                del self._computing[name]
        if self._twins.get(sequence.prompt_name) is sequence:
            del self._twins[sequence.prompt_name]
            for other in self.running:
                if other.prompt_name == sequence.prompt_name:
                    self._twins[sequence.prompt_name] = other
                    break
        sequence.blocks, sequence.draft = [], []
        sequence.slot = sequence.cached = sequence.published = 0

    def _admit(self, plan: Plan, budget: int) -> None:
        """Admit waiting sequences in order, passing over those for which another one is computing the beginning."""
        deferred: list[Sequence] = []
        while self.waiting and self._slots and budget > 0 and len(deferred) <= self.max_batch:
            sequence = self.waiting[0]
            start = self._take_beginning(sequence, plan)
            if start is None:
                deferred.append(self.waiting.popleft())
                continue
            if plan.chunks and len(sequence.source) >= budget:
                self._return_beginning(sequence, plan)
                break
            budget = max(1, budget - len(sequence.source))
            length = min(len(sequence.tokens) - start, budget, self.max_chunk)
            room = min(start + length + self.lookahead, max(sequence.limit, start + length))
            missing = self.blocks.blocks_for(room) - len(sequence.blocks)
            spare = len(self.running)  # each running sequence will soon need a block: do not admit only to preempt
            taken = self.blocks.allocate(missing) if missing + spare <= self.blocks.n_free else None
            if taken is None:
                self._return_beginning(sequence, plan)
                break
            sequence.blocks += taken
            self.waiting.popleft()
            self._enter(sequence, start)
            plan.chunks.append(Chunk(sequence, start, length))
            budget -= length
        self.waiting.extendleft(reversed(deferred))
        if not self.running and self.waiting and not plan.chunks:
            plan.exhausted.append(self.waiting[0])

    def _enter(self, sequence: Sequence, start: int) -> None:
        sequence.slot = self._slots.pop()
        sequence.admissions += 1
        sequence.cached = sequence.reused = start
        sequence.published = min(start // self.blocks.block_size, len(sequence.names))
        self.running.append(sequence)
        if self.share:
            for name in islice(sequence.names, sequence.published, None):
                self._computing.setdefault(name, sequence)
            self._twins.setdefault(sequence.prompt_name, sequence)

    def _take_beginning(self, sequence: Sequence, plan: Plan) -> int | None:
        """Take cached blocks for the beginning of a sequence; how many tokens they hold, or None: worth waiting."""
        if not self.share:
            return 0
        twin = self._twins.get(sequence.prompt_name)
        if twin is not None and sequence.logits_from is None and len(sequence.tokens) == sequence.prompt_length:
            return self._fork(twin, sequence, plan)
        size = self.blocks.block_size
        self._name_blocks(sequence, len(sequence.tokens) // size)
        names = sequence.names[: sequence.reusable // size]
        sequence.blocks = self.blocks.match(names)
        known = len(sequence.blocks)
        if known < len(names) and names[known] in self._computing:
            self._return_beginning(sequence, plan)
            return None
        return known * size

    def _fork(self, twin: Sequence, sequence: Sequence, plan: Plan) -> int | None:
        """Share all of an equal prompt but its last token, whose block is copied; that token is computed again."""
        if twin.cached < twin.prompt_length:
            return None
        start, size = sequence.prompt_length - 1, self.blocks.block_size
        full = start // size
        if start % size:
            taken = self.blocks.allocate(1)
            if taken is None:
                return 0
            plan.copies.append((twin.blocks[full], taken[0]))
        else:
            taken = []
        for block in twin.blocks[:full]:
            self.blocks.share(block)
        sequence.blocks = twin.blocks[:full] + taken
        self._name_blocks(sequence, full)
        return start

    def _return_beginning(self, sequence: Sequence, plan: Plan) -> None:
        if plan.copies and sequence.blocks and plan.copies[-1][1] == sequence.blocks[-1]:
            plan.copies.pop()
        self.blocks.release(sequence.blocks)
        sequence.blocks = []
