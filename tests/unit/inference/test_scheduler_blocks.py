"""The block accounts and the scheduler, without a model: what must hold under any order of operations."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from foundling.inference.blocks import BlockPool, chain_hash
from foundling.inference.scheduler import Scheduler, Sequence


def test_block_accounting_is_exact_after_ten_thousand_random_operations() -> None:
    """Guards against leaked, doubly freed or doubly owned blocks under eviction, sharing and forgetting."""
    rng, pool = random.Random(0), BlockPool(37, 4)
    held: list[list[int]] = []
    for _ in range(10_000):
        action = rng.random()
        if action < 0.4:
            taken = pool.allocate(rng.randrange(1, 6))
            if taken:
                held.append(taken)
        elif action < 0.6 and held:
            name = chain_hash(b"", [rng.randrange(40)])
            pool.publish(rng.choice(rng.choice(held)), name)
        elif action < 0.7:
            matched = pool.match([chain_hash(b"", [rng.randrange(40)])])
            if matched:
                held.append(matched)
        elif action < 0.99 and held:
            pool.release(held.pop(rng.randrange(len(held))))
        elif action > 0.998:
            pool.forget()
        pool.check()
    for blocks in held:
        pool.release(blocks)
    pool.check()
    assert pool.n_free == 37


def test_least_recently_used_content_is_evicted_first_and_the_end_of_a_chain_before_its_beginning() -> None:
    """Guards against throwing away a hot prefix, or a beginning whose end then can never be matched."""
    pool = BlockPool(3, 2)
    names = [chain_hash(b"", [1, 2]), b"second", b"third"]
    blocks = pool.allocate(3)
    assert blocks is not None
    for block, name in zip(blocks, names, strict=True):
        pool.publish(block, name)
    pool.release(blocks)
    assert pool.allocate(1) == [blocks[2]]
    found = pool.match(names)
    assert found == blocks[:2]


def test_chained_hash_depends_on_everything_before() -> None:
    """Guards against reusing keys that were computed after other tokens."""
    first, other = chain_hash(b"", [1, 2]), chain_hash(b"", [3, 2])
    assert chain_hash(first, [5]) != chain_hash(other, [5])
    assert chain_hash(b"", [1, 23]) != chain_hash(b"", [12, 3])


class Machine:
    """Stands in for engine and model: the 'cache' remembers which token was written where, and checks every read."""

    def __init__(self, n_blocks: int, size: int, max_batch: int, budget: int, chunk: int) -> None:
        self.pool = BlockPool(n_blocks, size)
        self.scheduler = Scheduler(self.pool, max_batch, budget, chunk)
        self.cache: dict[tuple[int, int], tuple[int, int]] = {}  # (block, offset) -> (position, token)
        self.done: list[Sequence] = []
        self.size, self.budget, self.max_batch = size, budget, max_batch

    def step(self, rng: random.Random) -> None:
        plan = self.scheduler.schedule()
        assert sum(chunk.length for chunk in plan.chunks) <= self.budget
        assert len({chunk.sequence.slot for chunk in plan.chunks}) == len(plan.chunks) <= self.max_batch
        for source, destination in plan.copies:
            for offset in range(self.size):
                if (source, offset) in self.cache:
                    self.cache[destination, offset] = self.cache[source, offset]
        for chunk in plan.chunks:
            sequence = chunk.sequence
            for position in range(chunk.start, chunk.start + chunk.length):
                place = sequence.blocks[position // self.size], position % self.size
                self.cache[place] = (position, sequence.tokens[position])
        for chunk in plan.chunks:  # what attention would read must be this sequence's own past
            sequence = chunk.sequence
            for position in range(chunk.start + chunk.length):
                place = sequence.blocks[position // self.size], position % self.size
                assert self.cache[place] == (position, sequence.tokens[position])
        self.scheduler.commit(plan)
        self.pool.check()
        for sequence in plan.exhausted:
            self.scheduler.finish(sequence)
            self.done.append(sequence)
        for chunk in plan.chunks:
            if chunk.complete:
                chunk.sequence.tokens.append(rng.randrange(3))
                if len(chunk.sequence.tokens) >= chunk.sequence.limit:
                    self.scheduler.finish(chunk.sequence)
                    self.done.append(chunk.sequence)


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    n_blocks=st.integers(4, 40),
    size=st.sampled_from([1, 2, 4]),
    max_batch=st.integers(1, 6),
    chunk=st.integers(1, 9),
)
def test_any_schedule_reads_only_its_own_past_and_ends(
    seed: int, n_blocks: int, size: int, max_batch: int, chunk: int
) -> None:
    """Guards against stale or foreign blocks after sharing, forking, preemption, eviction, cancelling; and livelock."""
    rng = random.Random(seed)
    machine = Machine(n_blocks, size, max_batch, budget=max(max_batch, 8), chunk=chunk)
    added, cancelled = 0, 0
    for step in range(2000):
        if added < 20 and rng.random() < 0.5:
            prompt = [rng.randrange(2) for _ in range(rng.randrange(1, n_blocks * size // 2 + 1))]
            for _ in range(rng.choice([1, 1, 3])):
                added += 1
                machine.scheduler.add(Sequence(added, list(prompt), len(prompt) + rng.randrange(1, 12)))
        if rng.random() < 0.05 and machine.scheduler.running:
            machine.scheduler.finish(rng.choice(machine.scheduler.running))
            cancelled += 1
        if rng.random() < 0.02:
            machine.scheduler.restart()
            machine.cache.clear()
        machine.step(rng)
        if step > 60 and machine.scheduler.idle:
            break
    assert machine.scheduler.idle and len(machine.done) + cancelled == added
    assert machine.pool.n_free == n_blocks


def test_equal_prompts_share_all_but_the_last_token() -> None:
    """Guards against computing a prompt n times for n samples."""
    machine = Machine(20, 4, max_batch=4, budget=64, chunk=64)
    for number in range(4):
        machine.scheduler.add(Sequence(number, [1, 0, 1, 1, 0, 1, 1], 12))
    assert [chunk.length for chunk in machine.scheduler.schedule().chunks] == [7]
    machine = Machine(20, 4, max_batch=4, budget=64, chunk=64)
    for number in range(4):
        machine.scheduler.add(Sequence(number, [1, 0, 1, 1, 0, 1, 1], 12))
    machine.step(random.Random(0))
    plan = machine.scheduler.schedule()
    assert [(chunk.start, chunk.length) for chunk in plan.chunks] == [(7, 1), (6, 1), (6, 1), (6, 1)]
    assert len(plan.copies) == 3


def test_a_beginning_that_is_being_computed_is_waited_for() -> None:
    """Guards against computing a few-shot prefix once per question when the questions arrive together."""
    machine = Machine(40, 4, max_batch=4, budget=64, chunk=64)
    for number in range(3):
        machine.scheduler.add(Sequence(number, [0, 1, 0, 1, 1, 1, 0, 0, number], 12))
    machine.scheduler.add(Sequence(9, [1, 1], 12))
    plan = machine.scheduler.schedule()
    assert [chunk.sequence.id for chunk in plan.chunks] == [0, 9]
    machine.scheduler.commit(plan)
    for chunk in plan.chunks:
        chunk.sequence.tokens.append(0)
    assert [chunk.start for chunk in machine.scheduler.schedule().chunks] == [9, 2, 8, 8]


def test_out_of_blocks_preempts_the_newest_and_names_the_hopeless() -> None:
    """Guards against deadlock when the pool cannot hold everybody, or not even one."""
    machine = Machine(4, 2, max_batch=2, budget=16, chunk=16)
    machine.scheduler.add(Sequence(1, [1, 1, 0], 7))
    machine.scheduler.add(Sequence(2, [0, 1, 0], 30))
    for _ in range(60):
        machine.step(random.Random(1))
    assert [sequence.id for sequence in machine.done] == [1, 2]
    assert machine.done[0].preemptions == 0 and len(machine.done[0].tokens) == 7
    assert len(machine.done[1].tokens) == 9  # eight fit, and the ninth was sampled from them
