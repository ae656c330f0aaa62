"""On a GPU: mixers by the fused kernels of mamba_ssm and fla against their plain torch forms, forward and backward.

Float32 throughout; `gpu_kernels` keeps the kernels' products exact, so what is left is the order of sums.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from foundling.models.build import build
from foundling.models.config import BlockConfig, MixerConfig, ModelConfig
from foundling.models.context import CacheView, Context
from foundling.models.layers import gpu_kernels
from foundling.models.layers.recurrent_config import Mamba2Config, MambaConfig, RWKV4Config, RWKV7Config

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU here"),
]
DIM, ROWS, TIME = 128, 3, 200
MIXERS: dict[str, MixerConfig] = {
    "mamba": MambaConfig(inner=192, state=16, dt_rank=8),
    "mamba2": Mamba2Config(n_heads=4, head_dim=64, state=128, n_groups=2, chunk=64),
    "rwkv4": RWKV4Config(inner=DIM),
    "rwkv7": RWKV7Config(head_dim=64, decay_rank=16, rate_rank=16, gate_rank=16),
}
KERNELS = {
    "mamba": lambda: gpu_kernels.scan_kernel(torch.zeros(1, 2, 4, device="cuda")),
    "mamba2": lambda: gpu_kernels.ssd_kernel(torch.zeros(1, 2, 4, 64, device="cuda")),
    "rwkv4": lambda: gpu_kernels.wkv_kernel(torch.zeros(1, 2, 4, device="cuda"), None, ()),
    "rwkv7": lambda: gpu_kernels.delta_kernel(torch.zeros(1, 2, 2, 64, device="cuda")),
}


@pytest.fixture(params=MIXERS)
def mixer(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[nn.Module]:
    """A mixer whose parameters are off their special starting values, if the package with its kernel is here."""
    monkeypatch.delenv("FOUNDLING_NATIVE", raising=False)
    if KERNELS[request.param]() is None:
        pytest.skip(f"no package with a kernel for {request.param} is installed here")
    block = BlockConfig(mixer=MIXERS[request.param])
    config = ModelConfig(family="foundling", vocab_size=4, dim=DIM, blocks=(block,))
    found = build(config, 0, zero_outputs=False).blocks[0].mixer
    assert isinstance(found, nn.Module)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for part in found.parameters():
            part.add_(torch.randn(part.shape, generator=generator) * 0.05)
    yield found.cuda()


def randn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).cuda()


def both(run: Callable[[], list[Tensor]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run with the kernels and without, and compare all that comes back."""
    fused = run()
    monkeypatch.setenv("FOUNDLING_NATIVE", "0")
    plain = run()
    for index, (x, y) in enumerate(zip(fused, plain, strict=True)):
        assert (x - y).abs().max() <= 1e-4 * max(1.0, float(y.abs().max())), index


@pytest.mark.parametrize("packed", [False, True])
def test_a_training_pass(mixer: nn.Module, packed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outputs and all gradients; documents of one token, of many chunks, and a row that holds only one."""
    segments = torch.stack([torch.arange(TIME) // 70, torch.full((TIME,), 9), (torch.arange(TIME) > 0).long()]).cuda()

    def run() -> list[Tensor]:
        mixer.zero_grad()
        x = randn(ROWS, TIME, DIM).requires_grad_()
        y = mixer(x, Context.packed(segments) if packed else Context.full(ROWS, TIME, "cuda"))
        (y * randn(*y.shape)).sum().backward()
        gradients = [part.grad.clone() for part in mixer.parameters() if part.grad is not None]
        assert x.grad is not None
        return [y.detach(), x.grad, *gradients]

    both(run, monkeypatch)


def test_a_prompt_in_two_parts(mixer: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    """The state that a pass leaves behind, with padding, and the pass that goes on from it."""

    def run() -> list[Tensor]:
        state = mixer.new_state(ROWS + 1, 1, 1, torch.float32, "cuda")  # type: ignore[operator]
        x, slots = randn(ROWS, TIME, DIM), torch.arange(1, ROWS + 1, device="cuda")
        lengths, out = torch.zeros(ROWS, dtype=torch.int64, device="cuda"), []
        for new in ([TIME, 3, TIME - 5], [TIME - 9, TIME, 1]):
            new_lengths = torch.tensor(new, device="cuda")
            view = CacheView(
                write_slots=torch.zeros(ROWS, TIME, dtype=torch.int64, device="cuda"),
                block_table=torch.zeros(ROWS, 1, dtype=torch.int64, device="cuda"),
                lengths=lengths,
                new_lengths=new_lengths,
                state_slots=slots,
            )
            ctx = Context(lengths[:, None] + torch.arange(TIME, device="cuda"), cache=view)
            with torch.no_grad():
                y = mixer(x, ctx, state)
            out += [y[row, : new[row]] for row in range(ROWS)]
            lengths = lengths + new_lengths
        return [*out, *(part[1:] for part in state)]

    both(run, monkeypatch)
