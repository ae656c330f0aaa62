"""Pretraining against the usual scripts: same tokens, same parameter count, same machine.

    python benchmarks/pretrain.py speed [--tokens DIR] [--compile]  tokens/s beside transformers' (loop, Trainer)
    python benchmarks/pretrain.py speed --without-tiles             as on a CPU whose bfloat16 runs in vectors
    python benchmarks/pretrain.py nanogpt --tokens DIR              time to nanoGPT's validation loss

speed: a Llama of 6 layers, width 384, vocabulary 4096, context 256, 16 rows.

nanogpt: nanoGPT's recipe for a CPU, restated from its README and `train.py`: 4 layers, width 128, context 64, 12 rows,
2000 steps of AdamW at 1e-3 (betas 0.9 and 0.99, weight decay 0.1, 100 warm-up steps, cosine to a tenth, clip 1.0),
GPT-2 blocks, fp32. Ours has the same depth, width, parameter count and data, the default recipe with its own rows (16
of 256 tokens), and a third of the time; both are scored on windows of nanoGPT's context. `--large` takes the shape of
`speed` for both.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from foundling.core import hardware, progress
from foundling.models.build import build
from foundling.models.config import AttentionConfig, MLPConfig, ModelConfig, NormConfig, RopeConfig, uniform_blocks
from foundling.models.kernels import fused
from foundling.training.config import PretrainConfig
from foundling.training.objectives.causal import Causal
from foundling.training.token_files import TokenSplit
from foundling.training.trainer import Trainer

VOCAB = 4096


@dataclass(frozen=True)
class Shape:
    """Depth, width, heads and feed-forward of a decoder, and the rows of a step."""

    layers: int
    dim: int
    heads: int
    hidden: int
    context: int
    rows: int

    @property
    def step_tokens(self) -> int:
        """Tokens of one step."""
        return self.rows * self.context


LARGE = Shape(layers=6, dim=384, heads=6, hidden=1024, context=256, rows=16)
README = Shape(layers=4, dim=128, heads=4, hidden=341, context=64, rows=12)  # of nanoGPT, "i only have a macbook"


def our_shape(shape: Shape, default: bool) -> ModelConfig:
    """Llama's decoder; or the default recipe's: Qwen3's, with norms of queries and keys, and the head tied."""
    norm, head = NormConfig() if default else None, shape.dim // shape.heads
    mixer = AttentionConfig(n_heads=shape.heads, n_kv_heads=shape.heads, head_dim=head, rope=RopeConfig(), qk_norm=norm)
    family = "qwen3" if default else "llama"
    blocks = uniform_blocks(shape.layers, mixer, MLPConfig(hidden=shape.hidden))
    return ModelConfig(family=family, vocab_size=VOCAB, dim=shape.dim, blocks=blocks, tie_embeddings=default)


def random_tokens(folder: Path) -> Path:
    """Random tokens in the form of a tokens artifact: enough to measure speed."""
    stream = np.random.default_rng(0).integers(1, VOCAB, size=400_000).astype("<u2")
    for split in ("train", "validation"):
        stream.tofile(folder / f"{split}.bin")
        np.save(folder / f"{split}.index.npy", np.array([0, len(stream)]))
        np.save(folder / f"{split}.bytes.npy", np.array([len(stream)]))
    meta = {"dtype": "uint16", "vocab_size": VOCAB, "eot_id": 0, "splits": {"train": {}, "validation": {}}}
    (folder / "tokens.json").write_text(json.dumps(meta))
    return folder


# --- speed ------------------------------------------------------------------------------------------------------------


def foundling_speed(tokens: Path, steps: int, scratch: Path, compiled: bool = False) -> float:
    """Tokens/s of our Trainer, bf16, Muon."""
    options: dict[str, Any] = {"steps": steps, "checkpoint_every_s": 1e9, "compile": compiled}
    config = PretrainConfig(batch_size=LARGE.rows, context=LARGE.context, **options)
    objective = Causal(TokenSplit(tokens, "train"), LARGE.context, LARGE.rows, 0)
    module = build(our_shape(LARGE, default=False), 0)
    return Trainer(module, objective, config, scratch, log=scratch / "log.jsonl").fit().tokens_per_s


def transformers_llama() -> nn.Module:
    """The same shape in transformers."""
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": LARGE.dim, "intermediate_size": LARGE.hidden, "max_position_embeddings": LARGE.context}
    sizes |= {"num_hidden_layers": LARGE.layers, "num_attention_heads": LARGE.heads}
    return LlamaForCausalLM(LlamaConfig(vocab_size=VOCAB, **sizes))


def plain_loop_speed(tokens: Path, steps: int, scratch: Path) -> float:
    """Tokens/s of transformers' model in a plain loop: bf16 autocast, fused AdamW."""
    module = transformers_llama().train()
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3, fused=True)
    objective = Causal(TokenSplit(tokens, "train"), LARGE.context, LARGE.rows, 0)
    start = time.perf_counter()
    for step in range(steps):
        rows = objective.batch(step).tokens
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = module(input_ids=rows, labels=rows).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return steps * LARGE.step_tokens / (time.perf_counter() - start)


def trainer_speed(tokens: Path, steps: int, scratch: Path) -> float:
    """Tokens/s of transformers' Trainer with bf16=True."""
    from transformers import Trainer as TheirTrainer
    from transformers import TrainingArguments

    objective = Causal(TokenSplit(tokens, "train"), LARGE.context, 1, 0)
    rows = [{"input_ids": (ids := objective.batch(i).tokens[0]), "labels": ids} for i in range(steps * LARGE.rows)]
    settings: dict[str, Any] = {
        "per_device_train_batch_size": LARGE.rows,
        "max_steps": steps,
        "bf16": True,
        "use_cpu": True,
    }
    quiet: dict[str, Any] = {"report_to": [], "save_strategy": "no", "logging_strategy": "no", "disable_tqdm": True}
    arguments = TrainingArguments(output_dir=str(scratch), **settings, **quiet)
    trainer = TheirTrainer(model=transformers_llama(), args=arguments, train_dataset=rows)  # type: ignore[arg-type]
    start = time.perf_counter()
    trainer.train()
    return steps * LARGE.step_tokens / (time.perf_counter() - start)


def speed(tokens: Path, steps: int, rounds: int, compiled: bool) -> None:
    """Print tokens/s of each, alternating, with the share of the measured bf16 matrix rate."""
    peak = hardware.measure().bf16
    flops = our_shape(LARGE, default=False).flops_per_token(LARGE.context, training=True)
    peers: dict[str, Callable[[Path, int, Path], float]] = {
        "foundling": foundling_speed,
        **({"foundling, compiled": partial(foundling_speed, compiled=True)} if compiled else {}),
        "transformers, plain loop": plain_loop_speed,
        "transformers, Trainer": trainer_speed,
    }
    rates: dict[str, list[float]] = {name: [] for name in peers}
    for _ in range(rounds):
        for name, measure in peers.items():
            with tempfile.TemporaryDirectory() as scratch:
                rates[name].append(measure(tokens, steps, Path(scratch)))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    for name, rate in medians.items():
        print(f"{name:26} {rate:8.0f} tokens/s  {rate * flops / peak:.0%} of {peak / 1e9:.0f} GFLOP/s (bf16)")
    print(f"ratio to Trainer: {medians['foundling'] / medians['transformers, Trainer']:.2f} (goal 1.3)")


# --- time to nanoGPT's loss -------------------------------------------------------------------------------------------


class GPT(nn.Module):
    """nanoGPT's model: learned positions, LayerNorm, fused attention, GELU, tied head; GPT-2's initialisation."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.embedding, self.positions = nn.Embedding(VOCAB, shape.dim), nn.Embedding(shape.context, shape.dim)
        self.blocks = nn.ModuleList(GPTBlock(shape.dim, shape.heads) for _ in range(shape.layers))
        self.norm = nn.LayerNorm(shape.dim)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                std = 0.02 / math.sqrt(2 * shape.layers) if name.endswith("out.weight") else 0.02
                nn.init.normal_(parameter, std=std)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(rows, time) -> logits (rows, time, vocab)."""
        x = self.embedding(tokens) + self.positions.weight[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        return functional.linear(self.norm(x), self.embedding.weight)


class GPTBlock(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.attention_out = nn.Linear(dim, 3 * dim, bias=False), nn.Linear(dim, dim, bias=False)
        self.up, self.mlp_out = nn.Linear(dim, 4 * dim, bias=False), nn.Linear(4 * dim, dim, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(rows, time, dim) -> the same."""
        q, k, v = (y.unflatten(-1, (self.heads, -1)).transpose(1, 2) for y in self.qkv(self.norm1(x)).chunk(3, -1))
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        x = x + self.attention_out(mixed)
        return x + self.mlp_out(functional.gelu(self.up(self.norm2(x))))


def nanogpt(shape: Shape, tokens: Path, steps: int) -> tuple[float, float]:
    """Train nanoGPT; returns its validation loss (nats a token) and the seconds taken."""
    torch.manual_seed(0)
    module = GPT(shape)
    decayed = [p for p in module.parameters() if p.ndim >= 2]
    others = [p for p in module.parameters() if p.ndim < 2]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.99), fused=True)
    objective = Causal(TokenSplit(tokens, "train"), shape.context, shape.rows, 0)
    start = time.perf_counter()
    for step in range(steps):
        cosine = 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * max(0, step - 100) / max(1, steps - 100)))
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * min(1.0, (step + 1) / 100) * cosine
        batch = objective.batch(step)
        functional.cross_entropy(module(batch.tokens).flatten(0, 1), batch.targets.flatten()).backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    seconds = time.perf_counter() - start
    size = sum(p.numel() for p in module.parameters())
    print(
        f"nanoGPT: {size:,} parameters, {steps} steps, {steps * shape.step_tokens / seconds:.0f} tokens/s", flush=True
    )
    return validation_loss(shape, tokens, lambda rows: module(rows)), seconds


def foundling(shape: Shape, tokens: Path, seconds: float, scratch: Path) -> tuple[float, float]:
    """Our validation loss after training for about that long with the default recipe, and the seconds taken."""

    def train(steps: int, folder: Path) -> tuple[nn.Module, float]:
        module = build(our_shape(shape, default=True), 0)
        config = PretrainConfig(steps=steps)
        objective = Causal(TokenSplit(tokens, "train"), config.context, config.batch_size, 0)
        began = time.perf_counter()
        Trainer(module, objective, config, folder, log=folder / "log.jsonl").fit()
        return module, time.perf_counter() - began

    _, short = train(10, scratch / "short")
    _, longer = train(40, scratch / "longer")
    steps = max(20, int(30 * seconds / (longer - short)))
    module, taken = train(steps, scratch / "run")
    size = sum(p.numel() for p in module.parameters())
    seen = steps * PretrainConfig().batch_size * PretrainConfig().context
    print(f"foundling: {size:,} parameters, {steps} steps, {seen / taken:.0f} tokens/s")
    return validation_loss(shape, tokens, lambda rows: module(rows)), taken


@torch.no_grad()
def validation_loss(
    shape: Shape, tokens: Path, logits: Callable[[torch.Tensor], torch.Tensor], wanted: int = 49_152
) -> float:
    """Mean nats a token over fixed windows of the validation split."""
    objective = Causal(TokenSplit(tokens, "validation"), shape.context, shape.rows, 1)
    losses = [
        functional.cross_entropy(logits(b.tokens).flatten(0, 1), b.targets.flatten())
        for b in map(objective.batch, range(wanted // shape.step_tokens))
    ]
    return float(torch.stack(losses).mean())


def time_to_loss(shape: Shape, tokens: Path, steps: int) -> None:
    """Ours in a third of nanoGPT's time must not be worse."""
    theirs, seconds = nanogpt(shape, tokens, steps)
    with tempfile.TemporaryDirectory() as name:
        ours, taken = foundling(shape, tokens, seconds / 3, Path(name))
    verdict = "reached" if ours <= theirs else "NOT reached"
    print(f"nanoGPT {theirs:.4f} nats/token in {seconds:.0f} s; foundling {ours:.4f} in {taken:.0f} s: {verdict}")


def main() -> None:
    """Run one of the two comparisons."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("speed", "nanogpt"))
    parser.add_argument("--tokens", type=Path, help="a tokens artifact with a vocabulary of at most 4096")
    parser.add_argument("--steps", type=int, help="speed: 12; nanogpt: 2000")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--compile", action="store_true", help="speed: also ours with compiled blocks")
    parser.add_argument("--without-tiles", action="store_true", help="speed: no products in the CPU's tiles, by anyone")
    parser.add_argument("--large", action="store_true", help="nanogpt: the shape of speed")
    options = parser.parse_args()
    progress.set_quiet(True)
    if options.without_tiles:
        os.environ["ONEDNN_MAX_CPU_ISA"] = "AVX512_CORE_BF16"  # read at torch's first product
        fused.tiles = lambda: False
    if options.what == "nanogpt":
        if options.tokens is None:
            parser.error("nanogpt needs --tokens")
        time_to_loss(LARGE if options.large else README, options.tokens, options.steps or 2000)
        return
    with tempfile.TemporaryDirectory() as name:
        tokens = options.tokens or random_tokens(Path(name))
        speed(tokens, options.steps or 12, options.rounds, options.compile)


if __name__ == "__main__":
    main()
