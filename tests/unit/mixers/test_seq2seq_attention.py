"""The recurrent sequence-to-sequence stack against a float64 loop, one pair at a time."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from foundling.models.layers.seq2seq import Seq2Seq
from foundling.models.layers.seq2seq_config import Seq2SeqConfig

KINDS = list(itertools.product(["lstm", "gru"], ["none", "additive", "dot"]))


def make(cell: str, attention: str) -> Seq2Seq:
    config = Seq2SeqConfig(vocab_size=11, dim=6, hidden=8, cell=cell, attention=attention)
    module = Seq2Seq(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        module.init_weights(generator)
        for part in module.parameters():
            part.add_(torch.randn(part.shape, generator=generator) * 0.1)
    return module


def step(p: dict[str, Tensor], prefix: str, suffix: str, cell: str, x: Tensor, h: Tensor, c: Tensor) -> tuple:
    inside = p[f"{prefix}.weight_ih_l0{suffix}"] @ x + p[f"{prefix}.bias_ih_l0{suffix}"]
    across = p[f"{prefix}.weight_hh_l0{suffix}"] @ h + p[f"{prefix}.bias_hh_l0{suffix}"]
    if cell == "lstm":
        i, f, g, o = (inside + across).chunk(4)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c
    (xr, xz, xn), (hr, hz, hn) = inside.chunk(3), across.chunk(3)
    z = (xz + hz).sigmoid()
    return (1 - z) * (xn + (xr + hr).sigmoid() * hn).tanh() + z * h, c


def loop(p: dict[str, Tensor], cell: str, attention: str, source: list[int], target: list[int]) -> Tensor:
    zero, words = torch.zeros(8, dtype=torch.float64), p["embedding.weight"]
    outputs = []
    ends = []
    for suffix, order in (("", range(len(source))), ("_reverse", reversed(range(len(source))))):
        h = c = zero
        run = {}
        for s in order:
            h, c = step(p, "encoder", suffix, cell, words[source[s]], h, c)
            run[s] = h
        outputs.append(torch.stack([run[s] for s in range(len(source))]))
        ends.append(h)
    memory = torch.cat(outputs, -1)
    h, c = torch.tanh(p["bridge.weight"] @ torch.cat(ends) + p["bridge.bias"]), zero
    logits = []
    for token in target:
        if attention == "additive":
            keys = memory @ p["key.weight"].T + p["query.weight"] @ h
            context = (keys.tanh() @ p["score.weight"][0]).softmax(0) @ memory
            h, c = step(p, "decoder", "", cell, torch.cat([words[token], context]), h, c)
            joined = torch.cat([context, h])
        else:
            h, c = step(p, "decoder", "", cell, words[token], h, c)
            joined = h
            if attention == "dot":
                scores = (memory @ p["key.weight"].T) @ (p["query.weight"] @ h)
                joined = torch.cat([scores.softmax(0) @ memory, h])
        logits.append(p["output.weight"] @ torch.tanh(p["join.weight"] @ joined + p["join.bias"]))
    return torch.stack(logits)


@pytest.mark.parametrize(("cell", "attention"), KINDS)
def test_seq2seq_computes_its_papers_equations(cell: str, attention: str) -> None:
    """Guards against attention to padding, a bridge from the wrong end, and the state before or after the token."""
    module = make(cell, attention)
    source, target = [[3, 1, 4, 1, 5], [9, 2]], [[0, 7, 8], [0, 2, 6]]
    padded = torch.tensor([source[0], source[1] + [10] * 3])
    with torch.no_grad():
        found = module(padded, torch.tensor([5, 2]), torch.tensor(target))
    weights = {name: part.detach().double() for name, part in module.named_parameters()}
    for row in range(2):
        expected = loop(weights, cell, attention, source[row], target[row])
        torch.testing.assert_close(found[row].double(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("cell", "attention"), KINDS)
def test_greedy_decoding_follows_the_teacher_forced_logits(cell: str, attention: str) -> None:
    """Guards against a decoder that computes something else step by step than all at once."""
    module = make(cell, attention)
    source, lengths = torch.tensor([[3, 1, 4, 1, 5], [9, 2, 0, 0, 0]]), torch.tensor([5, 2])
    decoded = module.greedy(source, lengths, start=0, steps=6)
    inputs = torch.cat([torch.zeros(2, 1, dtype=torch.int64), decoded[:, :-1]], 1)
    with torch.no_grad():
        assert module(source, lengths, inputs).argmax(-1).tolist() == decoded.tolist()
