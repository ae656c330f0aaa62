"""Fine-tuning speed and memory beside trl and peft: LoRA SFT and LoRA DPO of SmolLM2's shape at equal settings.

    python benchmarks/post_training.py all         # what follows, one after the other
    python benchmarks/post_training.py sft         # seconds a step and peak memory of both, alternating processes
    python benchmarks/post_training.py dpo
    python benchmarks/post_training.py rollouts    # sampled answers beside transformers.generate
    CPU_SECONDS=1 OMP_NUM_THREADS=1 python benchmarks/post_training.py sft    # on a machine that others use, too

Both get the same directory (SmolLM2-135M's architecture, random weights: speed does not depend on them), the same
texts of nearly 256 tokens (all equally long: nobody pads; ours puts a pair of answers in one row, trl in two), batch 4,
rank 8 on all linear layers, AdamW, bf16. DPO's reference is counted for both: trl
computes it in every step, we once before the first, and each of our steps bears its share. Each side runs in a process
of its own, in turn; the first step (compilation, allocation) is not counted. The last lines say how far ours is from
the matrix rate. Rollouts: 16 prompts of 64 tokens, 4 answers each of exactly 64 sampled tokens, with a LoRA adapter on;
both in bf16; ours merges the adapter into its copy of the weights before each batch, transformers' has none.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

CONTEXT, BATCH, RANK = 256, 4, 8
PROMPTS, SAMPLES, NEW = 16, 4, 64
CLOCK = time.process_time if os.environ.get("CPU_SECONDS") else time.perf_counter
PROMPT = "Tell me at some length what you know about the sea, its fishes, and the ships that sail on it. "
ANSWER = "The sea is wide and deep. Many fishes live in it, some small, some larger than a house. "
WORSE = "I do not know much about that, and what I know I would rather keep to myself for now. "
TEMPLATE = (
    "{%- for m in messages -%}{{ '<|im_start|>' + m['role'] + '\\n' }}"
    "{%- if m['role'] == 'assistant' -%}{% generation %}{{ m['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{%- else -%}{{ m['content'] + '<|im_end|>' }}{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}"
)


def make_model(path: Path) -> None:
    """SmolLM2-135M's shape with random weights and a byte tokenizer, filled up to 49152 tokens with unused ones."""
    from tokenizers import Tokenizer as Fast
    from tokenizers import decoders, models, pre_tokenizers, trainers

    from foundling.models.build import build
    from foundling.models.checkpoint import save_module
    from foundling.models.presets import preset
    from foundling.tokenization.tokenizer import SPECIAL_TOKENS, Tokenizer

    fast = Fast(models.BPE())
    fast.pre_tokenizer, fast.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=260, special_tokens=list(SPECIAL_TOKENS), initial_alphabet=alphabet)
    fast.train_from_iterator([PROMPT], trainer)
    names = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "chat_template": TEMPLATE}
    shape = preset("smollm2-135m")
    save_module(build(shape, 0, zero_outputs=False), path)
    spelled = json.loads(fast.to_str())
    vocabulary = spelled["model"]["vocab"]
    vocabulary |= {f"<unused {number}>": number for number in range(len(vocabulary), shape.vocab_size)}
    Tokenizer(Fast.from_str(json.dumps(spelled)), names).save(path)


def texts(number: int) -> tuple[str, str, str]:
    """A prompt and two answers that make conversations of CONTEXT tokens, each example another one."""
    ask = f"{number:04d} {PROMPT}"[:90]
    room = CONTEXT - len(ask) - len("user\nassistant\n") - 4
    return ask, (f"{number:04d} " + ANSWER * 4)[:room], (f"{number:04d} " + WORSE * 4)[:room]


def ours(model: Path, method: str, steps: int, work: Path) -> list[float]:
    """Seconds of each step of our stage; for DPO with the step's share of the reference's forward passes."""
    from foundling.core.artifacts import Artifact, Draft
    from foundling.core.stages import Inputs
    from foundling.post_training import prefer
    from foundling.post_training.config import PreferConfig, SFTConfig
    from foundling.post_training.prefer import build_preferred
    from foundling.post_training.sft import build_sft
    from foundling.training.trainer import Trainer

    taken: list[float] = []
    step = Trainer._train_step

    def timed(self: Trainer, number: int) -> Any:
        begin = CLOCK()
        result = step(self, number)
        taken.append(CLOCK() - begin)
        return result

    def reference(*arguments: Any) -> Any:
        begin = CLOCK()
        found = score_reference(*arguments)
        before.append(CLOCK() - begin)
        return found

    before: list[float] = []
    score_reference = prefer.reference_logprobs
    prefer.reference_logprobs = reference
    Trainer._train_step = timed  # type: ignore[method-assign]
    data = work / "rows.jsonl"
    fields = ("prompt", "completion") if method == "sft" else ("prompt", "chosen", "rejected")
    rows = [dict(zip(fields, texts(i), strict=False)) for i in range(steps * BATCH)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    width = CONTEXT if method == "sft" else 2 * CONTEXT
    options: dict[str, Any] = {
        "data": (str(data),), "context": width, "batch_size": BATCH, "steps": steps, "optimizer": "adamw",
        "precision": "bf16", "adapter": {"rank": RANK, "alpha": 16}, "log_every": 1, "learning_rate": 1e-4,
    }  # fmt: skip
    draft = Draft(work / "files", work / "scratch", "0123456789abcdef")
    draft.path.mkdir()
    draft.scratch.mkdir()
    inputs = Inputs({"base": Artifact.outside(model, "model")})
    if method == "sft":
        build_sft(SFTConfig(**options), inputs, draft)
    else:
        build_preferred(PreferConfig(**options), inputs, draft)
    return [seconds + sum(before) / steps for seconds in taken]


def theirs(model: Path, method: str, steps: int, work: Path) -> list[float]:
    """Seconds of each step of trl's trainer on a peft model."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

    class Clock(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.begin = CLOCK()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            taken.append(CLOCK() - self.begin)

    taken: list[float] = []
    rows = [texts(i) for i in range(steps * BATCH)]
    says = {
        "user": lambda t: {"role": "user", "content": t},
        "assistant": lambda t: {"role": "assistant", "content": t},
    }
    common = {
        "output_dir": str(work), "per_device_train_batch_size": BATCH, "max_steps": steps, "use_cpu": True,
        "bf16": True,
        "report_to": "none", "save_strategy": "no", "gradient_checkpointing": False, "learning_rate": 1e-4,
        "max_length": CONTEXT, "disable_tqdm": True,
    }  # fmt: skip
    lora = LoraConfig(r=RANK, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(model)
    trainer: Any
    if method == "sft":
        chats = [{"messages": [says["user"](p), says["assistant"](a)]} for p, a, _ in rows]
        options = SFTConfig(assistant_only_loss=True, **common)
        trainer = SFTTrainer(
            base, options, train_dataset=Dataset.from_list(chats), processing_class=tokenizer, peft_config=lora,
            callbacks=[Clock()],
        )  # fmt: skip
    else:
        pairs = [
            {"prompt": [says["user"](p)], "chosen": [says["assistant"](a)], "rejected": [says["assistant"](b)]}
            for p, a, b in rows
        ]
        trainer = DPOTrainer(
            base, args=DPOConfig(**common), train_dataset=Dataset.from_list(pairs), processing_class=tokenizer,
            peft_config=lora, callbacks=[Clock()],
        )  # fmt: skip
    trainer.train()
    return taken


def our_rollouts(model: Path, steps: int) -> list[float]:
    """Seconds of each batch of sampled answers from the engine."""
    from foundling.inference.engine import Engine, Request, SamplingParams
    from foundling.models.adapter_config import AdapterConfig
    from foundling.models.adapters import attach
    from foundling.models.checkpoint import load_module
    from foundling.post_training.acting import plain_copy, refresh

    module = load_module(model)
    attach(module, AdapterConfig(rank=RANK, alpha=16), 0)
    acting = plain_copy(module, "bf16")
    engine = Engine(acting, None, max_batch=PROMPTS * SAMPLES)
    params = [SamplingParams(max_tokens=NEW, n=SAMPLES, temperature=1.0, seed=i) for i in range(PROMPTS)]
    taken = []
    for step in range(steps):
        requests = [Request(ids, p) for ids, p in zip(prompt_ids(step), params, strict=True)]
        begin = CLOCK()
        refresh(acting, module)
        engine.weights_changed()
        done = engine.generate(requests)
        taken.append(CLOCK() - begin)
        assert sum(len(one.tokens) for one in done) == PROMPTS * SAMPLES * NEW
    return taken


def their_rollouts(model: Path, steps: int) -> list[float]:
    """Seconds of each batch of sampled answers from transformers."""
    import torch
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16).eval()
    options = {"max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": True, "num_return_sequences": SAMPLES}
    taken = []
    for step in range(steps):
        ids = torch.tensor(prompt_ids(step))
        begin = CLOCK()
        with torch.inference_mode():
            base.generate(ids, attention_mask=torch.ones_like(ids), top_k=0, pad_token_id=0, **options)
        taken.append(CLOCK() - begin)
    return taken


def prompt_ids(step: int) -> list[list[int]]:
    """Token ids of the prompts of a batch, others for each."""
    return [[(7 * i + 13 * j + 101 * step) % 49000 + 10 for j in range(64)] for i in range(PROMPTS)]


def child(side: str, model: Path, method: str, steps: int) -> dict[str, Any]:
    """One side in a process of its own."""
    command = [sys.executable, __file__, method, "--side", side, "--model", str(model), "--steps", str(steps)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"TOKENIZERS_PARALLELISM": "false"})
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> None:
    """Run both sides in turn and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method", choices=("all", "sft", "dpo", "rollouts"))
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--side", choices=("ours", "theirs"))
    parser.add_argument("--model", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if arguments.side:
            ours_here = arguments.side == "ours"
            if arguments.method == "rollouts":
                taken = (our_rollouts if ours_here else their_rollouts)(arguments.model, arguments.steps)
            else:
                run = ours if ours_here else theirs
                taken = run(arguments.model, arguments.method, arguments.steps, Path(folder))
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            print(json.dumps({"seconds": taken[1:], "peak": peak}))
            return
        model = arguments.model or Path(folder) / "model"
        if not model.exists():
            make_model(model)
        for method in ("sft", "dpo", "rollouts") if arguments.method == "all" else (arguments.method,):
            compare(model, method, arguments.steps, arguments.rounds)


def compare(model: Path, method: str, steps: int, rounds: int) -> None:
    """Medians over all steps of all rounds."""
    results: dict[str, list[dict[str, Any]]] = {"ours": [], "theirs": []}
    for _ in range(rounds):
        for side, found in results.items():
            found.append(child(side, model, method, steps))
    step = {s: statistics.median(t for r in found for t in r["seconds"]) for s, found in results.items()}
    peak = {s: max(r["peak"] for r in found) for s, found in results.items()}
    if method == "rollouts":
        print(f"rollouts of SmolLM2-135M's shape, {PROMPTS} prompts x {SAMPLES} answers x {NEW} tokens, bf16, median")
        for side, name in (("ours", "foundling"), ("theirs", "transformers")):
            rate = PROMPTS * SAMPLES * NEW / step[side]
            print(f"  {name:12} {step[side]:6.2f} s   {rate:5.0f} tokens/s   peak {peak[side] / 2**30:.2f} GiB")
    else:
        _show_training(method, step, peak)
    print(f"  speed ratio {step['theirs'] / step['ours']:.2f}, memory ratio {peak['ours'] / peak['theirs']:.2f}\n")


def _show_training(method: str, step: dict[str, float], peak: dict[str, int]) -> None:
    from foundling.core import hardware
    from foundling.models.presets import preset

    tokens = BATCH * CONTEXT * (2 if method == "dpo" else 1)
    # forward, and backward to the inputs only: the base's weights need no gradients
    flops = 2 * preset("smollm2-135m").flops_per_token(CONTEXT) * tokens
    rate = hardware.measure().bf16 if CLOCK is time.perf_counter else 0.0
    if CLOCK is time.process_time:
        print("seconds of one core's work; the machine was busy with other things")
    print(f"LoRA {method} on SmolLM2-135M's shape, rank {RANK}, batch {BATCH} x {CONTEXT} tokens, bf16, median step")
    for side, name in (("ours", "foundling"), ("theirs", "trl + peft")):
        used = f"{flops / step[side] / rate:4.0%} of the bf16 rate   " if rate else ""
        print(f"  {name:12} {step[side]:6.2f} s   {used}peak {peak[side] / 2**30:.2f} GiB")


if __name__ == "__main__":
    main()
