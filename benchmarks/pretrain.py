"""Pretraining against the usual scripts: same tokens, same parameter count, same machine.

    python benchmarks/pretrain.py speed [--tokens DIR]                tokens/s beside transformers' (loop, Trainer)
    python benchmarks/pretrain.py nanogpt --tokens DIR [--minutes 2]  time to nanoGPT's validation loss

The shape is that of `baselines.md`: Llama, 6 layers, width 384, vocabulary 4096, context 256, 16 rows. nanoGPT's recipe
is restated from its README and `train.py` (AdamW 1e-3 with betas 0.9 and 0.99, weight decay 0.1, 100 warm-up steps,
cosine to a tenth, clip 1.0, GPT-2 blocks), in fp32 as its README advises on a CPU. Ours is the default recipe.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from foundling.core import hardware, progress
from foundling.models.build import build
from foundling.models.config import AttentionConfig, MLPConfig, ModelConfig, NormConfig, RopeConfig, uniform_blocks
from foundling.training.config import PretrainConfig
from foundling.training.objectives.causal import Causal
from foundling.training.token_files import TokenSplit
from foundling.training.trainer import Trainer

VOCAB, LAYERS, DIM, HEADS, HIDDEN, CONTEXT, ROWS = 4096, 6, 384, 6, 1024, 256, 16


def our_shape(qk_norm: bool) -> ModelConfig:
    """The benchmark's decoder: Llama's, or Qwen3's with norms of queries and keys."""
    norm = NormConfig() if qk_norm else None
    mixer = AttentionConfig(n_heads=HEADS, n_kv_heads=HEADS, head_dim=DIM // HEADS, rope=RopeConfig(), qk_norm=norm)
    family = "qwen3" if qk_norm else "llama"
    blocks = uniform_blocks(LAYERS, mixer, MLPConfig(hidden=HIDDEN))
    return ModelConfig(family=family, vocab_size=VOCAB, dim=DIM, blocks=blocks, tie_embeddings=False)


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


def foundling_speed(tokens: Path, steps: int, scratch: Path) -> float:
    """Tokens/s of our Trainer, bf16, Muon."""
    config = PretrainConfig(steps=steps, batch_size=ROWS, context=CONTEXT, checkpoint_every_s=1e9)
    objective = Causal(TokenSplit(tokens, "train"), CONTEXT, ROWS, 0)
    module = build(our_shape(qk_norm=False), 0)
    return Trainer(module, objective, config, scratch, log=scratch / "log.jsonl").fit().tokens_per_s


def transformers_llama() -> nn.Module:
    """The same shape in transformers."""
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": DIM, "intermediate_size": HIDDEN, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS}
    return LlamaForCausalLM(LlamaConfig(vocab_size=VOCAB, max_position_embeddings=CONTEXT, **sizes))


def plain_loop_speed(tokens: Path, steps: int, scratch: Path) -> float:
    """Tokens/s of transformers' model in a plain loop: bf16 autocast, fused AdamW."""
    module = transformers_llama().train()
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3, fused=True)
    objective = Causal(TokenSplit(tokens, "train"), CONTEXT, ROWS, 0)
    start = time.perf_counter()
    for step in range(steps):
        rows = objective.batch(step).tokens
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = module(input_ids=rows, labels=rows).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return steps * ROWS * CONTEXT / (time.perf_counter() - start)


def trainer_speed(tokens: Path, steps: int, scratch: Path) -> float:
    """Tokens/s of transformers' Trainer with bf16=True."""
    from transformers import Trainer as TheirTrainer
    from transformers import TrainingArguments

    objective = Causal(TokenSplit(tokens, "train"), CONTEXT, 1, 0)
    rows = [{"input_ids": (ids := objective.batch(i).tokens[0]), "labels": ids} for i in range(steps * ROWS)]
    settings: dict[str, Any] = {"per_device_train_batch_size": ROWS, "max_steps": steps, "bf16": True, "use_cpu": True}
    quiet: dict[str, Any] = {"report_to": [], "save_strategy": "no", "logging_strategy": "no", "disable_tqdm": True}
    arguments = TrainingArguments(output_dir=str(scratch), **settings, **quiet)
    trainer = TheirTrainer(model=transformers_llama(), args=arguments, train_dataset=rows)  # type: ignore[arg-type]
    start = time.perf_counter()
    trainer.train()
    return steps * ROWS * CONTEXT / (time.perf_counter() - start)


def speed(tokens: Path, steps: int, rounds: int) -> None:
    """Print tokens/s of each, alternating, with the share of the measured bf16 matrix rate."""
    peak = hardware.measure().bf16
    flops = our_shape(qk_norm=False).flops_per_token(CONTEXT, training=True)
    peers: dict[str, Callable[[Path, int, Path], float]] = {
        "foundling": foundling_speed,
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

    def __init__(self, layers: int = 8) -> None:
        super().__init__()
        self.embedding, self.positions = nn.Embedding(VOCAB, DIM), nn.Embedding(CONTEXT, DIM)
        self.blocks = nn.ModuleList(GPTBlock() for _ in range(layers))
        self.norm = nn.LayerNorm(DIM)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                std = 0.02 / math.sqrt(2 * layers) if name.endswith("out.weight") else 0.02
                nn.init.normal_(parameter, std=std)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(rows, time) -> logits (rows, time, vocab)."""
        x = self.embedding(tokens) + self.positions.weight[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        return functional.linear(self.norm(x), self.embedding.weight)


class GPTBlock(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(DIM), nn.LayerNorm(DIM)
        self.qkv, self.attention_out = nn.Linear(DIM, 3 * DIM, bias=False), nn.Linear(DIM, DIM, bias=False)
        self.up, self.mlp_out = nn.Linear(DIM, 4 * DIM, bias=False), nn.Linear(4 * DIM, DIM, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(rows, time, dim) -> the same."""
        q, k, v = (y.unflatten(-1, (HEADS, -1)).transpose(1, 2) for y in self.qkv(self.norm1(x)).chunk(3, -1))
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        x = x + self.attention_out(mixed)
        return x + self.mlp_out(functional.gelu(self.up(self.norm2(x))))


def nanogpt(tokens: Path, minutes: float) -> tuple[float, float]:
    """Train nanoGPT for the given time; returns its validation loss (nats a token) and the seconds taken."""
    torch.manual_seed(0)
    module = GPT()
    decayed = [p for p in module.parameters() if p.ndim >= 2]
    others = [p for p in module.parameters() if p.ndim < 2]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.99), fused=True)
    objective = Causal(TokenSplit(tokens, "train"), CONTEXT, ROWS, 0)
    start, step = time.perf_counter(), 0
    while (done := (time.perf_counter() - start) / (60 * minutes)) < 1:
        cosine = 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * done))
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * min(1.0, (step + 1) / 100) * cosine
        batch = objective.batch(step)
        functional.cross_entropy(module(batch.tokens).flatten(0, 1), batch.targets.flatten()).backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
    seconds = time.perf_counter() - start
    size = sum(p.numel() for p in module.parameters())
    print(f"nanoGPT: {size:,} parameters, {step} steps, {step * ROWS * CONTEXT / seconds:.0f} tokens/s")
    return validation_loss(tokens, lambda rows: module(rows)), seconds


def foundling(tokens: Path, seconds: float, scratch: Path) -> float:
    """Our validation loss after training for about that long with the default recipe."""
    pace = foundling_speed(tokens, 6, scratch / "pace")
    config = PretrainConfig(steps=max(20, int(pace * seconds / ROWS / CONTEXT)), batch_size=ROWS, context=CONTEXT)
    module = build(our_shape(qk_norm=True), 0)
    objective = Causal(TokenSplit(tokens, "train"), CONTEXT, ROWS, 0)
    summary = Trainer(module, objective, config, scratch / "run", log=scratch / "log.jsonl").fit()
    size = module.config.n_parameters()
    print(f"foundling: {size:,} parameters, {summary.steps} steps, {summary.tokens_per_s:.0f} tokens/s")
    return validation_loss(tokens, lambda rows: module(rows))


@torch.no_grad()
def validation_loss(tokens: Path, logits: Callable[[torch.Tensor], torch.Tensor], batches: int = 12) -> float:
    """Mean nats a token over fixed windows of the validation split."""
    objective = Causal(TokenSplit(tokens, "validation"), CONTEXT, ROWS, 1)
    losses = [
        functional.cross_entropy(logits(b.tokens).flatten(0, 1), b.targets.flatten())
        for b in map(objective.batch, range(batches))
    ]
    return float(torch.stack(losses).mean())


def time_to_loss(tokens: Path, minutes: float) -> None:
    """Ours in a third of nanoGPT's time must not be worse."""
    theirs, seconds = nanogpt(tokens, minutes)
    with tempfile.TemporaryDirectory() as name:
        ours = foundling(tokens, seconds / 3, Path(name))
    print(
        f"nanoGPT {theirs:.4f} nats/token in {seconds:.0f} s; foundling {ours:.4f} in a third of that: "
        f"{'reached' if ours <= theirs else 'NOT reached'}"
    )


def main() -> None:
    """Run one of the two comparisons."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("speed", "nanogpt"))
    parser.add_argument("--tokens", type=Path, help="a tokens artifact with a vocabulary of at most 4096")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=1.5)
    options = parser.parse_args()
    progress.set_quiet(True)
    if options.what == "nanogpt":
        if options.tokens is None:
            parser.error("nanogpt needs --tokens")
        time_to_loss(options.tokens, options.minutes)
        return
    with tempfile.TemporaryDirectory() as name:
        speed(options.tokens or random_tokens(Path(name)), options.steps, options.rounds)


if __name__ == "__main__":
    main()
