"""Code search: an embedding model learns which function a docstring belongs to, beside BM25 and all-MiniLM-L6-v2.

    python benchmarks/embedding.py --base quickstart/base [--store runs] [--also all-minilm-l6-v2] [--epochs 3]

Pairs are the functions of the installed packages and the standard library: the first paragraph of a docstring is the
query, the function without it the passage (as in CodeSearchNet, Husain et al. 2019). The queries of a tenth are held
out. A line is a model before training and after, on the same held-out queries, with 95% intervals.
"""

from __future__ import annotations

import argparse
import ast
import json
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

from foundling.cli.stages import run_standalone
from foundling.core import progress
from foundling.pipeline import STAGES

FEWEST_WORDS, LONGEST = 4, 4000  # of a query; characters of a function


def functions(files: list[Path]) -> Iterator[tuple[str, str]]:
    """(first paragraph of the docstring, the function without it) of every documented function."""
    for file in files:
        try:
            tree = ast.parse(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, SyntaxError, ValueError, RecursionError):
            continue
        for node in ast.walk(tree):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or len(node.body) < 2:
                continue
            query = (ast.get_docstring(node) or "").partition("\n\n")[0].replace("\n", " ").strip()
            if len(query.split()) < FEWEST_WORDS:
                continue
            node.body, node.decorator_list = node.body[1:], []
            passage = ast.unparse(node)
            if len(passage) < LONGEST:
                yield query, passage


def write_pairs(target: Path, limit: int) -> int:
    """Write the pairs as JSONL, each function once; returns their number."""
    roots = [Path(sysconfig.get_paths()[name]) for name in ("stdlib", "purelib")]
    files = sorted(file for root in roots for file in root.rglob("*.py") if "test" not in str(file))
    seen: dict[str, str] = {}
    for query, passage in functions(files):
        seen.setdefault(passage, query)
        if len(seen) == limit:
            break
    rows = [json.dumps({"query": query, "passage": passage}) + "\n" for passage, query in seen.items()]
    target.write_text("".join(rows), encoding="utf-8")
    return len(rows)


def main() -> None:
    """Train every model on the same pairs and print what it finds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="quickstart/base")
    parser.add_argument("--also", nargs="*", default=["all-minilm-l6-v2"])
    parser.add_argument("--store", default="runs")
    parser.add_argument("--limit", type=int, default=40_000)
    parser.add_argument("--epochs", type=float, default=3.0)
    options = parser.parse_args()
    progress.set_quiet(True)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "pairs.jsonl"
        print(f"{write_pairs(data, options.limit)} pairs, {options.epochs:g} passes over them")
        for number, base in enumerate([options.base, *options.also]):
            config = {"data": [str(data)], "epochs": options.epochs}
            made = run_standalone(STAGES["contrast"], config, base=base, store=options.store, quiet=True)
            found = made.metrics
            if number == 0:
                print(f"{found['held_out']} held-out queries; the right function first (mean reciprocal rank)")
                print(f"{'BM25':24} {found['recall_at_1_bm25']:.3f} ({found['mrr_bm25']:.3f})")
            print(f"{base:24} {found['recall_at_1_before']:.3f} ({found['mrr_before']:.3f})", end="  ->  ")
            interval = f"[{found['recall_at_1_low']:.3f}, {found['recall_at_1_high']:.3f}]"
            seconds = made.run["training_seconds"]
            print(f"{found['recall_at_1']:.3f} {interval} ({found['mrr']:.3f}) in {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
