"""Claims: 5-shot MMLU at least 10 times, 0-shot HellaSwag at least 3 times as fast as lm-eval's Hugging Face backend.

Both score items of the same data with the same 135M weights (random: speed does not depend on their values) in one
process, alternating; the log-likelihoods must agree. lm-eval takes as long for every item of a subject, so it is asked
some of them only. MMLU's prompts are from 200 to 3000 tokens long: the ratio is that of the time which subjects at
several quantiles of the length take in sum. Needs FOUNDLING_DATA and the extra `lm-eval`.

    python benchmarks/evaluation.py --rounds 2
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers
from lm_eval.models.huggingface import HFLM
from tokenizers import decoders, models, pre_tokenizers

from foundling.core.hardware import describe
from foundling.evaluation.answering import LocalAnswerer
from foundling.evaluation.config import EvaluateConfig
from foundling.evaluation.lm_eval_harness import HarnessAnswerer
from foundling.evaluation.requests import Request
from foundling.evaluation.tasks.registry import make_tasks
from foundling.inference.engine import Engine
from foundling.models.build import build
from foundling.models.checkpoint import save_module
from foundling.models.presets import preset
from foundling.tokenization.tokenizer import Tokenizer

ROUNDS = 3


def gpt2_tokenizer() -> Tokenizer:
    """GPT-2's published vocabulary, so that prompts have the lengths they have in practice."""
    folder = Path(os.environ["FOUNDLING_DATA"]) / "vectors"
    with gzip.open(folder / "gpt2_vocab.json.gz", "rt", encoding="utf-8") as file:
        vocabulary = json.load(file)
    with gzip.open(folder / "gpt2_merges.txt.gz", "rt", encoding="utf-8") as file:
        merges = [tuple(line.split()) for line in file.read().splitlines() if line and not line.startswith("#version")]
    fast = tokenizers.Tokenizer(models.BPE(vocabulary, merges))
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.decoder = decoders.ByteLevel()
    fast.add_special_tokens(["<|endoftext|>"])
    return Tokenizer(fast, {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"})


def samples_of(task_name: str, items: int, quantiles: int) -> dict[str, list[list[Request]]]:
    """The requests of a task's first items; of MMLU's, of the subjects at evenly spaced quantiles of the length."""
    [task] = make_tasks(EvaluateConfig(tasks=(task_name,)), None)
    every = task.items()
    subjects = {task_name: every}
    if task_name == "mmlu":
        by_length = sorted(every, key=lambda item: len(str(task.requests(item)[0])))
        picked = [by_length[len(every) * (2 * part + 1) // (2 * quantiles)].slice for part in range(quantiles)]
        subjects = {subject: [item for item in every if item.slice == subject] for subject in picked}
    return {name: [list(task.requests(item)) for item in chosen[:items]] for name, chosen in subjects.items()}


def timed(answerer: Any, items: Sequence[Sequence[Request]]) -> tuple[float, list[float]]:
    """Seconds per item, and the log-likelihoods."""
    answerer.new_block()
    requests = [request for item in items for request in item]
    started = time.perf_counter()
    answers = answerer.answer(requests)
    return (time.perf_counter() - started) / len(items), [answer.logprob for answer in answers]


def main() -> None:
    """Print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=512, help="of each subject for ours: a block of evaluate")
    parser.add_argument("--peer-items", type=int, default=8, help="of those, for lm-eval's")
    parser.add_argument("--quantiles", type=int, default=4, help="MMLU's subjects")
    parser.add_argument("--dtype", default="float32,bfloat16")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--batch-size", type=int, default=8, help="lm-eval's")
    chosen = parser.parse_args()
    tokenizer = gpt2_tokenizer()
    config = preset("smollm2-135m").model_copy(update={"vocab_size": tokenizer.vocab_size, "max_positions": 2048})
    with tempfile.TemporaryDirectory() as folder:
        module = build(config, seed=0, zero_outputs=False)  # or no layer would matter
        save_module(module, folder)
        tokenizer.save(folder)
        for dtype in (getattr(torch, name) for name in chosen.dtype.split(",")):
            theirs = HFLM(
                pretrained=transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype),
                tokenizer=transformers.AutoTokenizer.from_pretrained(folder),
                batch_size=chosen.batch_size,
            )
            ours = LocalAnswerer(Engine(module.to(dtype), tokenizer), tokenizer, config.max_positions)
            compare(chosen, str(dtype).removeprefix("torch."), ours, HarnessAnswerer(theirs))
            module.float()
    print(describe())


def compare(chosen: argparse.Namespace, dtype: str, ours: LocalAnswerer, theirs: HarnessAnswerer) -> None:
    """One line per subject, and one per task."""
    for task, wanted in (("mmlu", 10), ("hellaswag", 3)):
        total = {"ours": 0.0, "lm-eval": 0.0}
        for subject, items in samples_of(task, chosen.items, chosen.quantiles).items():
            seconds: dict[str, list[float]] = {"ours": [], "lm-eval": []}
            for _ in range(chosen.rounds):
                mine, logprobs = timed(ours, items)
                yours, expected = timed(theirs, items[: chosen.peer_items])
                seconds["ours"].append(mine)
                seconds["lm-eval"].append(yours)
            gap = max(abs(a - b) for a, b in zip(logprobs, expected, strict=False))
            middle = {who: statistics.median(found) for who, found in seconds.items()}
            total = {who: total[who] + middle[who] for who in total}
            print(
                f"{subject} {dtype}: {middle['ours'] * 1e3:.1f} ms an item, lm-eval {middle['lm-eval'] * 1e3:.1f}, "
                f"ratio {middle['lm-eval'] / middle['ours']:.1f}, largest difference {gap:.2g}",
                flush=True,
            )
        print(f"-> {task} {dtype}: ratio {total['lm-eval'] / total['ours']:.1f} (wanted {wanted})", flush=True)


if __name__ == "__main__":
    main()
