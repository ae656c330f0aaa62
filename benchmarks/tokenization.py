"""Bulk encoding: megabytes a second of one core and of all, ids equal to `tokenizers` on every document.

python benchmarks/tokenization.py [--megabytes 100]
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time

import numpy as np

from foundling.corpus import installed
from foundling.tokenization.bulk import BulkEncoder
from foundling.tokenization.config import TokenizerConfig
from foundling.tokenization.train import train


def documents(megabytes: int) -> list[str]:
    """Sources of this machine's Python packages, and a few very long documents made of them."""
    texts, total = [], 0
    for path, _, _ in installed.files():
        text = path.read_bytes().decode("utf-8", "ignore")
        texts.append(text)
        total += len(text)
        if total > megabytes * 1e6 * 0.9:
            break
    return [*texts, "".join(texts[:300]), " " * 100_000, "a" * 100_000, "".join(texts[300:400])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("--check", action="store_true", help="compare every document with `tokenizers` (a minute)")
    options = parser.parse_args()
    texts = documents(options.megabytes)
    size = sum(len(text.encode()) for text in texts) / 1e6
    for pre_tokenizer in ("gpt2", "llama3"):
        tokenizer = train(iter(texts[:1500]), TokenizerConfig(vocab_size=16_384, pre_tokenizer=pre_tokenizer))
        encoder = BulkEncoder(tokenizer)
        assert encoder.is_fast, "gigatoken is not in use"
        taken = []
        for _ in range(3):
            start = time.perf_counter()
            ids, lengths = encoder.encode(texts)
            taken.append(time.perf_counter() - start)
        threads = os.environ.get("RAYON_NUM_THREADS", f"{os.cpu_count()} (all)")
        print(f"{pre_tokenizer}: {size:.0f} MB, {threads} threads: {size / statistics.median(taken):.0f} MB/s")
        if options.check:
            start = time.perf_counter()
            differ, position = 0, np.concatenate([[0], np.cumsum(lengths)])
            for first in range(0, len(texts), 256):
                for number, expected in enumerate(tokenizer.encode_batch(texts[first : first + 256]), first):
                    differ += ids[position[number] : position[number + 1]].tolist() != expected
            rate = size / (time.perf_counter() - start)
            print(f"  tokenizers: {rate:.1f} MB/s; documents that differ: {differ} of {len(texts)}")


if __name__ == "__main__":
    if "RAYON_NUM_THREADS" not in os.environ and "--one" not in sys.argv:
        one = {**os.environ, "RAYON_NUM_THREADS": "1"}
        subprocess.run(
            [sys.executable, __file__, *sys.argv[1:]], env=one, check=True
        )  # one core, then all, with the check
        sys.argv.append("--check")
    main()
