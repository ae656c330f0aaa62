"""SmolLM2-135M-Instruct adapted to a real task by the recipe `adapt-smollm2`: LoRA, then DPO on its own answers.

    python benchmarks/adapt_smollm2.py languages --store runs      # with FOUNDLING_DATA: which of 20 languages is it?
    python benchmarks/adapt_smollm2.py expressions --store runs    # the recipe as it stands

The sentences are the language-identification test of Lingua (Wortschatz Leipzig, CC BY 4.0): 16 of each language to
learn from, 8 for the model to answer and be judged on, 20 held out. All three models answer the same held-out items.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
from collections import defaultdict
from pathlib import Path
from typing import Any

import yaml

from foundling.cli.main import main as foundling
from foundling.core.artifacts import Store
from foundling.core.lives import artifact_of

LANGUAGES = {
    "cs": "Czech", "da": "Danish", "nl": "Dutch", "en": "English", "et": "Estonian", "fi": "Finnish", "fr": "French",
    "de": "German", "hu": "Hungarian", "it": "Italian", "lv": "Latvian", "lt": "Lithuanian", "pl": "Polish",
    "pt": "Portuguese", "ro": "Romanian", "sk": "Slovak", "sl": "Slovene", "es": "Spanish", "sv": "Swedish",
    "tr": "Turkish",
}  # fmt: skip
TRAIN, JUDGED, HELD_OUT = 16, 8, 20  # of each language
ASK = "Which language is this? Answer with its name only.\n\n"
EVALUATIONS = ("evaluate-start", "evaluate-sft", "evaluate-dpo")


def main() -> None:
    """Write the task's files, run the recipe on them, print the scores and the paired comparisons."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=("languages", "expressions"))
    parser.add_argument("--store", type=Path, default=Path("runs"))
    parser.add_argument("--set", action="append", default=[], help="passed on to the recipe")
    arguments = parser.parse_args()
    settings = [*arguments.set, f"name=adapt-{arguments.task}"]
    if arguments.task == "languages":
        folder = arguments.store / "languages"
        write_languages(folder)
        settings += [f"sft.data=[{folder / 'train.jsonl'}]", f"dpo.data=[{folder / 'judged.jsonl'}]"]
        settings += [f"{name}.tasks=[{folder / 'languages.yaml'}]" for name in EVALUATIONS]
        settings += ["dpo.max_tokens=8"]
    given = [part for setting in settings for part in ("--set", setting)]
    foundling(["run", "adapt-smollm2", *given, "--store", str(arguments.store)])
    show(Store(arguments.store), f"adapt-{arguments.task}")


def write_languages(folder: Path) -> None:
    """train.jsonl for SFT, judged.jsonl with a verifier for DPO, held-out rows and the task file that scores them."""
    by_language: dict[str, list[str]] = defaultdict(list)
    source = Path(os.environ["FOUNDLING_DATA"]) / "text" / "langid_sentences.jsonl.gz"
    with gzip.open(source, "rt", encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            by_language[row["lang"]].append(row["text"])
    train: list[Any] = []
    judged: list[Any] = []
    held_out: list[Any] = []
    for code, name in LANGUAGES.items():
        texts = by_language[code]
        train += [{"prompt": ASK + text, "completion": name} for text in texts[:TRAIN]]
        own = texts[TRAIN : TRAIN + JUDGED]
        judged += [{"prompt": ASK + text, "verifier": "exact", "data": name} for text in own]
        held_out += [{"text": text, "language": name} for text in texts[TRAIN + JUDGED : TRAIN + JUDGED + HELD_OUT]]
    folder.mkdir(parents=True, exist_ok=True)
    for file, rows in (("train", train), ("judged", judged), ("held-out", held_out)):
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"{file}.jsonl").write_text(text, encoding="utf-8")
    task = {
        "name": "languages", "version": 1, "data": {"file": "held-out.jsonl"}, "kind": "generate",
        "prompt": ASK + "{{text}}", "target": "{{language}}", "answer": "language", "max_tokens": 8,
        "extract": {"exact": {"ignore_case": True, "ignore": [r"\.$"]}}, "slice": "language",
    }  # fmt: skip
    (folder / "languages.yaml").write_text(yaml.safe_dump(task, sort_keys=False), encoding="utf-8")


def show(store: Store, life: str) -> None:
    """Scores with intervals, each stage's time, and each evaluation beside the one before it."""
    for name in EVALUATIONS:
        made = artifact_of(store, f"{life}/{name}", "evaluation")
        assert made is not None
        for metric, found in made.metrics.items():
            interval = f"[{found['low']:.3f}, {found['high']:.3f}]"
            print(f"{name:15} {metric:22} {found['value']:.3f} {interval} of {found['n']}")
        results = json.loads((made.path / "results.json").read_text(encoding="utf-8"))
        for row in results.get("against", []):
            print(f"{'':15} {row['metric']}: {row['difference']:+.3f}, p = {row['p_adjusted']:.2g}: {row['verdict']}")
    for name in ("sft", "dpo"):
        made = artifact_of(store, f"{life}/{name}", "model")
        assert made is not None
        numbers = made.metrics
        used = numbers.get("examples", numbers.get("pairs"))
        print(f"{name}: {used} {'examples' if name == 'sft' else 'pairs'}, {numbers['steps']} steps, "
              f"{made.run['seconds']:.0f} s, peak {made.run['peak_memory_bytes'] / 2**30:.2f} GiB")  # fmt: skip


if __name__ == "__main__":
    main()
