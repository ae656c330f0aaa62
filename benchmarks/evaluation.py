"""Claims: 5-shot MMLU at least 10 times, 0-shot HellaSwag at least 3 times as fast as lm-eval's Hugging Face backend.

Both score the same items with the same 135M weights (random: speed does not depend on their values) in one process,
alternating; the log-likelihoods must agree. Needs FOUNDLING_DATA and the extra `lm-eval`.

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
from foundling.evaluation.requests import Loglikelihood, Request
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


def requests_of(task_name: str, items: int) -> list[Request]:
    """All requests of the first items of a task; of MMLU's, of the subject that the item of median length is of."""
    [task] = make_tasks(EvaluateConfig(tasks=(task_name,)), None)
    chosen = list(task.items())
    if task_name == "mmlu":
        by_length = sorted(chosen, key=lambda item: len(str(task.requests(item)[0])))
        subject = by_length[len(by_length) // 2].slice
        chosen = [item for item in chosen if item.slice == subject]
    found = [request for item in chosen[:items] for request in task.requests(item)]
    assert all(isinstance(request, Loglikelihood) for request in found)
    return found


def timed(answerer: Any, requests: Sequence[Request]) -> tuple[float, list[float]]:
    """Requests per second, and the log-likelihoods."""
    answerer.new_block()
    started = time.perf_counter()
    answers = answerer.answer(requests)
    return len(requests) / (time.perf_counter() - started), [answer.logprob for answer in answers]


def main() -> None:
    """Print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mmlu", type=int, default=100, help="items")
    parser.add_argument("--hellaswag", type=int, default=24, help="items")
    parser.add_argument("--dtype", default="float32,bfloat16")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--batch-size", type=int, default=8, help="lm-eval's")
    chosen = parser.parse_args()
    tokenizer = gpt2_tokenizer()
    config = preset("smollm2-135m").model_copy(update={"vocab_size": tokenizer.vocab_size, "max_positions": 2048})
    with tempfile.TemporaryDirectory() as folder:
        module = build(config, seed=0)
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
    """One line per task."""
    for name, items, wanted in (("mmlu", chosen.mmlu, 10), ("hellaswag", chosen.hellaswag, 3)):
        requests = requests_of(name, items)
        rates: dict[str, list[float]] = {"ours": [], "lm-eval": []}
        for _ in range(chosen.rounds):
            mine, logprobs = timed(ours, requests)
            yours, expected = timed(theirs, requests)
            rates["ours"].append(mine)
            rates["lm-eval"].append(yours)
        gap = max(abs(a - b) for a, b in zip(logprobs, expected, strict=True))
        middle = {who: statistics.median(found) for who, found in rates.items()}
        print(
            f"{name} {dtype}: {middle['ours']:.2f} requests/s, lm-eval {middle['lm-eval']:.2f}, "
            f"ratio {middle['ours'] / middle['lm-eval']:.1f} (wanted {wanted}), largest difference {gap:.2g}",
            flush=True,
        )


if __name__ == "__main__":
    main()
