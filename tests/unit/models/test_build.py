"""Fresh models: reproducible and sanely scaled."""

from __future__ import annotations

import math
import os
import subprocess
import sys

import torch

from foundling.models.build import build
from foundling.models.context import Context
from foundling.models.presets import preset


def test_same_seed_same_weights_and_no_two_tensors_alike() -> None:
    config = preset("foundling-1m", vocab_size=64)
    first, again, other = (build(config, seed).state_dict() for seed in (1, 1, 2))
    for name in first:
        assert torch.equal(first[name], again[name]), name
    matrices = [name for name in first if first[name].dim() == 2 and "o_proj" not in name and "down" not in name]
    assert all(not torch.equal(first[name], other[name]) for name in matrices)
    assert not torch.equal(first["blocks.0.ffn.up.weight"], first["blocks.1.ffn.up.weight"])
    assert not torch.equal(first["blocks.0.ffn.up.weight"], first["blocks.0.ffn.gate.weight"])


def test_the_first_loss_is_that_of_a_uniform_guess() -> None:
    module = build(preset("foundling-2m", vocab_size=512), seed=0)
    ids = torch.randint(0, 512, (4, 64), generator=torch.Generator().manual_seed(0))
    loss = torch.nn.functional.cross_entropy(module(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
    assert abs(loss.item() - math.log(512)) < 0.2


def test_packed_positions_restart() -> None:
    segments = torch.tensor([[3, 3, 5, 5, 5, -1], [0, 0, 0, 0, 0, 0]])
    assert Context.packed(segments).positions.tolist() == [[0, 1, 0, 1, 2, 0], [0, 1, 2, 3, 4, 5]]


def test_configs_and_presets_import_no_torch() -> None:
    code = "import sys, foundling.models.presets as p; p.preset('llama-3-8b').n_parameters()"
    code += "; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, env=dict(os.environ))
