"""Claims: coverage grows log-linearly with the number of samples; with a verifier that can be fooled more is worse.

    python benchmarks/best_of.py quickstart/control [--samples 1024] [--items 40] [--plot docs/images/best_of.png]

On the quickstart's graded task (held-out compositions, run on hidden inputs). Chosen from N samples by: the true
verifier (all hidden inputs: coverage), a fooled one (one input, the shortest answer that passes it), the model's mean
log-probability, and majority vote. Coverage is Chen et al.'s unbiased pass@N; -log(coverage) is fitted by a power law
of N (Brown et al. 2024, arXiv:2407.21787). Exits 1 if a claim does not hold.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np

from foundling import load
from foundling.core.artifacts import Store
from foundling.evaluation.tasks import expressions
from foundling.inference.engine import Request
from foundling.inference.model import Model
from foundling.inference.search import coverage, selection

matplotlib.use("Agg")


def draw(model: Model, items: list[expressions.Item], args: argparse.Namespace) -> list[list[tuple[str, float]]]:
    """(answer, mean log-probability) of every sample of every item."""
    found = []
    for number, item in enumerate(items):
        options = {"max_tokens": 48, "temperature": args.temperature, "seed": number, "n": args.samples}
        request: Request = model.request(expressions.messages(item), **options)
        done = model.engine.generate([request])
        found.append([(one.text.strip(), float(np.mean(one.logprobs))) for one in done])
    return found


def passed(item: expressions.Item, answers: list[str], inputs: int) -> list[bool]:
    """Whether each answer equals the reference on the first so many of the hidden inputs."""
    known = replace(item, inputs=item.inputs[:inputs])
    distinct = list(dict.fromkeys(answers))
    verdicts = dict(zip(distinct, expressions.grade([known] * len(distinct), distinct), strict=True))
    return [verdicts[answer].passed for answer in answers]


def votes(answers: list[list[str]], correct: list[list[bool]], sizes: list[int]) -> list[float]:
    """Accuracy of the most frequent of N answers: mean over 50 random subsets."""
    rng, found = np.random.default_rng(0), []
    for n in sizes:
        hits = []
        for texts, right in zip(answers, correct, strict=True):
            for _ in range(50 if n < len(texts) else 1):
                subset = rng.choice(len(texts), size=n, replace=False)
                winner = Counter(texts[i] for i in subset).most_common(1)[0][0]
                hits.append(right[texts.index(winner)])
        found.append(float(np.mean(hits)))
    return found


def plot(curves: dict[str, list[float]], sizes: list[int], path: Path) -> None:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    for name, values in curves.items():
        axes.plot(sizes, values, marker="o", markersize=3, label=name)
    axes.set(xscale="log", xlabel="samples per prompt", ylabel="share of prompts answered rightly", ylim=(0, 1))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=150)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--store", type=Path)
    parser.add_argument("--items", type=int, default=40)
    parser.add_argument("--samples", type=int, default=1024)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--plot", type=Path)
    args = parser.parse_args()
    model = load(args.model, Store(args.store), max_batch=64)
    items = expressions.generate("compositions", args.items)
    samples = draw(model, items, args)
    answers = [[text for text, _ in row] for row in samples]
    correct = [passed(item, row, len(item.inputs)) for item, row in zip(items, answers, strict=True)]
    weak = [passed(item, row, 1) for item, row in zip(items, answers, strict=True)]
    fooled = [[ok * 1000.0 - len(text) for ok, text in zip(*pair, strict=True)] for pair in zip(weak, answers)]
    sizes = [2**i for i in range(args.samples.bit_length()) if 2**i <= args.samples]
    curves = {
        "coverage (true verifier)": coverage(correct, sizes),
        "fooled verifier": selection(correct, fooled, sizes),
        "mean log-probability": selection(correct, [[score for _, score in row] for row in samples], sizes),
        "majority vote": votes(answers, correct, sizes),
    }
    print(f"{args.items} prompts, {args.samples} samples each, temperature {args.temperature}")
    print(f"{'N':>6} " + " ".join(f"{name:>26}" for name in curves))
    for at, n in enumerate(sizes):
        print(f"{n:6} " + " ".join(f"{values[at]:26.3f}" for values in curves.values()))
    known = [(n, value) for n, value in zip(sizes, curves["coverage (true verifier)"], strict=True) if 0 < value < 1]
    x, y = np.log([n for n, _ in known]), np.log(-np.log([value for _, value in known]))
    slope, intercept = np.polyfit(x, y, 1)
    fit = 1 - np.sum((y - slope * x - intercept) ** 2) / np.sum((y - y.mean()) ** 2)
    fall = max(curves["fooled verifier"]) - curves["fooled verifier"][-1]
    print(f"coverage = exp(-{np.exp(intercept):.2f} N^{slope:.3f}), R2 {fit:.3f}; the fooled one falls by {fall:.3f}")
    if args.plot:
        plot(curves, sizes, args.plot)
    return int(not (fit > 0.95 and fall > 0.02))


if __name__ == "__main__":
    sys.exit(main())
