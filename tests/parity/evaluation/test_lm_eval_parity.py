"""Our tasks against lm-evaluation-harness's own on the same weights: log-likelihoods within 1e-3, equal decisions."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
import transformers
from tokenizers import decoders, models, pre_tokenizers, trainers

from foundling.evaluation.answering import LocalAnswerer
from foundling.evaluation.config import EvaluateConfig
from foundling.evaluation.running import run_task
from foundling.evaluation.task import Outcome
from foundling.evaluation.tasks.registry import make_tasks
from foundling.inference.model import Model, load
from foundling.models.build import build
from foundling.models.checkpoint import save_module
from foundling.models.presets import preset
from foundling.tokenization.tokenizer import SPECIAL_TOKENS, Tokenizer

DATA = os.environ.get("FOUNDLING_DATA")
pytestmark = pytest.mark.skipif(DATA is None, reason="FOUNDLING_DATA is not set")
lm_eval = pytest.importorskip("lm_eval")
N = 12
CONTEXT = 2048


def rows(name: str, keep: Callable[[dict[str, Any]], bool] = lambda row: True, n: int = N) -> list[dict[str, Any]]:
    """The first n rows of a data file that `keep` accepts."""
    with gzip.open(Path(DATA or "") / "eval" / name, "rt", encoding="utf-8") as lines:
        return [row for row in map(json.loads, lines) if keep(row)][:n]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model whose every weight matters, with a tokenizer trained on the questions themselves."""
    fast = tokenizers.Tokenizer(models.BPE())
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=4096,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [json.dumps(row, ensure_ascii=False) for name in FILES for row in rows(name, n=300)]
    fast.train_from_iterator(texts, trainer)
    path = tmp_path_factory.mktemp("model")
    Tokenizer(fast, {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}).save(path)
    module = build(preset("foundling-1m", vocab_size=4096, max_positions=CONTEXT), seed=1)
    generator = torch.Generator().manual_seed(2)
    for parameter in module.parameters():
        parameter.data += 0.03 * torch.randn(parameter.shape, generator=generator)
    save_module(module, path)
    return path


FILES = (
    "mmlu.jsonl.gz",
    "arc_easy.jsonl.gz",
    "hellaswag_val_1k.jsonl.gz",
    "gsm8k_test.jsonl.gz",
    "lambada_openai.jsonl.gz",
)


@pytest.fixture(scope="module")
def theirs(directory: Path) -> Any:
    """The harness's Hugging Face backend."""
    from lm_eval.models.huggingface import HFLM

    model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    return HFLM(pretrained=model, tokenizer=transformers.AutoTokenizer.from_pretrained(directory), batch_size=4)


@pytest.fixture(scope="module")
def ours(directory: Path) -> Model:
    return load(directory)


def run_theirs(
    lm: Any, task: str, config: dict[str, Any], data: dict[str, list[dict[str, Any]]]
) -> list[dict[str, Any]]:
    """Per-item samples of the harness, with its own template over our local rows."""
    import datasets
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks import TaskManager
    from lm_eval.tasks._yaml_loader import load_yaml

    template = load_yaml(TaskManager().task_index[task].yaml_path, resolve_func=True)
    made = {split: datasets.Dataset.from_list(rows) for split, rows in data.items()}
    splits = {"training_split": None, "validation_split": None, "test_split": "test", "dataset_kwargs": None}
    merged = {**template, **splits, **config, "task": task, "custom_dataset": lambda **kwargs: made}
    merged.pop("group", None)
    done = lm_eval.simple_evaluate(lm, tasks=[ConfigurableTask(config=merged)], bootstrap_iters=0, log_samples=True)
    return sorted(done["samples"][task], key=lambda sample: sample["doc_id"])


def run_ours(model: Model, name: str, ids: int, folder: Path, **changes: Any) -> list[Outcome]:
    """Outcomes of the first items of our task."""
    [task] = make_tasks(EvaluateConfig(tasks=(name,), **changes), None)
    answerer = LocalAnswerer(model.engine, model.tokenizer, CONTEXT)
    return run_task(task, task.items()[:ids], answerer, 64, folder / f"{name}.jsonl")


def check_choices(samples: list[dict[str, Any]], outcomes: list[Outcome], metrics: tuple[str, ...]) -> None:
    """Equal log-likelihoods and equal decisions, except where two options tie."""
    assert len(samples) == len(outcomes) == N
    for sample, outcome in zip(samples, outcomes, strict=True):
        logprobs = [float(response[0][0]) for response in sample["resps"]][: len(outcome.sample["logprobs"])]
        assert outcome.sample["logprobs"] == pytest.approx(logprobs, abs=1e-3)
        for metric in metrics:
            assert outcome.metrics[metric] == sample[metric]


def test_mmlu(theirs: Any, ours: Model, tmp_path: Path) -> None:
    """Guards against a different template, shots of another subject, or the answer's token taken elsewhere."""
    subject = "abstract_algebra"
    split = {
        s: rows("mmlu.jsonl.gz", lambda r, s=s: r["subject"] == subject and r["split"] == s) for s in ("dev", "test")
    }
    for part in split.values():
        for row in part:
            row["answer"] = "ABCD".index(row["answer"])
    preamble = "The following are multiple choice questions (with answers) about abstract algebra.\n\n"
    config = {"description": preamble, "num_fewshot": 5, "fewshot_split": "dev"}
    samples = run_theirs(theirs, "mmlu_abstract_algebra", config, split)
    check_choices(samples, run_ours(ours, "mmlu", N, tmp_path), ("acc",))


def test_arc(theirs: Any, ours: Model, tmp_path: Path) -> None:
    """Guards against another length normalisation (tokens or bytes instead of characters)."""
    local = [
        {
            "question": row["query"].removeprefix("Question: "),
            "choices": {"text": row["choices"], "label": ["A", "B", "C", "D", "E"][: len(row["choices"])]},
            "answerKey": "ABCDE"[row["gold"]],
        }
        for row in rows("arc_easy.jsonl.gz")
    ]
    samples = run_theirs(theirs, "arc_easy", {}, {"test": local})
    check_choices(samples, run_ours(ours, "arc-easy", N, tmp_path), ("acc", "acc_norm"))


def test_hellaswag(theirs: Any, ours: Model, tmp_path: Path) -> None:
    """Guards against the clean-up of WikiHow brackets missing or applied twice."""
    samples = run_theirs(theirs, "hellaswag", {}, {"test": rows("hellaswag_val_1k.jsonl.gz")})
    check_choices(samples, run_ours(ours, "hellaswag", N, tmp_path), ("acc", "acc_norm"))


def test_blimp(theirs: Any, ours: Model, tmp_path: Path) -> None:
    """Guards against an empty context handled otherwise: a sentence after the beginning-of-text token."""
    samples = run_theirs(theirs, "blimp_adjunct_island", {}, {"test": rows("blimp_250x67.jsonl.gz")})
    check_choices(samples, run_ours(ours, "blimp", N, tmp_path), ("acc",))


def test_truthfulqa(theirs: Any, ours: Model, tmp_path: Path) -> None:
    """Guards against MC2's mass taken over the wrong options, and the primer's line breaks."""
    import csv
    import io

    text = gzip.decompress((Path(DATA or "") / "eval/truthfulqa.csv.gz").read_bytes()).decode()
    local = []
    for row in list(csv.DictReader(io.StringIO(text, newline="")))[:N]:
        right, wrong = (
            [p.strip() for p in row[k].split(";") if p.strip()] for k in ("Correct Answers", "Incorrect Answers")
        )
        mc1 = {"choices": [row["Best Answer"].strip(), *wrong], "labels": [1] + [0] * len(wrong)}
        mc2 = {"choices": right + wrong, "labels": [1] * len(right) + [0] * len(wrong)}
        local.append({"question": row["Question"], "mc1_targets": mc1, "mc2_targets": mc2})
    samples = run_theirs(theirs, "truthfulqa_mc1", {}, {"test": local})
    check_choices(samples, run_ours(ours, "truthfulqa-mc1", N, tmp_path), ("acc",))
    samples = run_theirs(theirs, "truthfulqa_mc2", {}, {"test": local})
    outcomes = run_ours(ours, "truthfulqa-mc2", N, tmp_path)
    check_choices(samples, outcomes, ())
    assert [o.metrics["mass"] for o in outcomes] == pytest.approx([s["acc"] for s in samples], abs=1e-4)


def test_lambada(theirs: Any, ours: Model, tmp_path: Path) -> None:
    """Guards against the space before the last word on the wrong side, and greedy judged on its first token only."""
    local = [{"text": f"{row['context']} {row['continuation']}"} for row in rows("lambada_openai.jsonl.gz")]
    samples = run_theirs(theirs, "lambada_openai", {}, {"test": local})
    for sample, outcome in zip(samples, run_ours(ours, "lambada", N, tmp_path), strict=True):
        assert outcome.metrics["nats"] == pytest.approx(-sample["perplexity"], abs=1e-3)
        assert outcome.metrics["acc"] == sample["acc"]


def test_gsm8k(theirs: Any, ours: Model, tmp_path: Path) -> None:
    """Guards against other stop strings, another cut of the text, and extraction that finds another number."""
    train = rows("gsm8k_train.jsonl.gz", n=2)
    options = {"until": ["Question:", "</s>", "<|im_end|>"], "do_sample": False, "temperature": 0.0, "max_gen_toks": 64}
    config = {
        "num_fewshot": 2,
        "fewshot_split": "train",
        "fewshot_config": {"sampler": "first_n"},
        "generation_kwargs": options,
    }
    samples = run_theirs(theirs, "gsm8k", config, {"train": train, "test": rows("gsm8k_test.jsonl.gz", n=4)})
    [task] = make_tasks(EvaluateConfig(tasks=("gsm8k",), shots=2), None)
    object.__setattr__(task, "spec", task.spec.model_copy(update={"max_tokens": 64}))  # type: ignore[attr-defined]
    answerer = LocalAnswerer(ours.engine, ours.tokenizer, CONTEXT)
    outcomes = run_task(task, task.items()[:4], answerer, 64, tmp_path / "gsm8k.jsonl")
    for name, filtered in (("strict", "strict-match"), ("flexible", "flexible-extract")):
        mine = [s for s in samples if s["filter"] == filtered]
        assert len(mine) == 4
        for sample, outcome in zip(mine, outcomes, strict=True):
            assert outcome.sample["answer"] == sample["resps"][0][0]
            assert (outcome.sample["read"][name] or "[invalid]") == sample["filtered_resps"][0]
            assert outcome.metrics[name] == sample["exact_match"]


def test_copa(theirs: Any, ours: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against another connective or another case of the choices; the harness's second space is taken out."""
    import polars

    subjects, causes = ("cup", "lamp", "shop"), ("It fell.", "Nobody cared.", "The rain stopped.", "I slept.")
    made = [
        {
            "premise": f"The {subjects[i % 3]} was broken.",
            "choice1": causes[i % 4],
            "choice2": causes[(i + 1 + i // 4) % 4],
            "question": ("cause", "effect")[i % 2],
            "label": i % 2,
        }
        for i in range(N)
    ]
    path = tmp_path / "aps/super_glue/copa/validation-00000-of-00001.parquet"
    path.parent.mkdir(parents=True)
    polars.DataFrame(made).write_parquet(path)
    monkeypatch.setenv("FOUNDLING_DATA", str(tmp_path))
    samples = run_theirs(theirs, "copa", {"target_delimiter": ""}, {"test": made})
    check_choices(samples, run_ours(ours, "copa", N, tmp_path), ("acc",))


def test_our_models_in_their_harness(theirs: Any, ours: Model) -> None:
    """Guards against our LM interface answering otherwise than the harness's own backend."""
    from foundling.evaluation.lm_eval_harness import FoundlingLM

    local = [{"text": f"{row['context']} {row['continuation']}"} for row in rows("lambada_openai.jsonl.gz", n=4)]
    here, there = (run_theirs(lm, "lambada_openai", {}, {"test": local}) for lm in (FoundlingLM(ours), theirs))
    assert [s["perplexity"] for s in here] == pytest.approx([s["perplexity"] for s in there], abs=1e-3)
    assert [s["acc"] for s in here] == [s["acc"] for s in there]


def test_their_models_on_our_tasks(theirs: Any, ours: Model, tmp_path: Path) -> None:
    """Guards against our requests losing something on the way into the harness's models."""
    from foundling.evaluation.lm_eval_harness import HarnessAnswerer

    [task] = make_tasks(EvaluateConfig(tasks=("piqa",)), None)
    items = task.items()[:4]
    there = run_task(task, items, HarnessAnswerer(theirs), 64, tmp_path / "there")
    here = run_task(task, items, LocalAnswerer(ours.engine, ours.tokenizer, CONTEXT), 64, tmp_path / "here")
    for mine, yours in zip(here, there, strict=True):
        assert mine.sample["logprobs"] == pytest.approx(yours.sample["logprobs"], abs=1e-3)
        assert mine.metrics == yours.metrics
