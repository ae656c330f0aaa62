"""The roads of `adapt`: each turns the training examples into a function from inputs to answers."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from foundling.core.artifacts import Artifact, Draft
from foundling.core.files import read_jsonl
from foundling.core.rng import seed_for
from foundling.core.stages import Inputs
from foundling.inference.model import Model, load
from foundling.models.adapter_config import AdapterConfig
from foundling.models.adapters import PromptEmbedding, attach
from foundling.post_training.config import SFTConfig
from foundling.post_training.heads import last_hidden
from foundling.post_training.packing import Encoded, PackedRows
from foundling.post_training.sft import SupervisedFineTuning, build_sft
from foundling.studies.adapt_config import AdaptConfig
from foundling.studies.adapt_search import search_over
from foundling.tokenization.chat import render
from foundling.training.config import TrainingConfig
from foundling.training.trainer import Trainer

Answer = Callable[[Sequence[str]], list[str]]
Message = dict[str, Any]
CONTEXT, BATCH = 512, 4  # of the roads that train


@dataclass(frozen=True)
class Row:
    """One example of the task."""

    input: str
    output: str


def zero_shot(base: Path, train: Sequence[Row], config: AdaptConfig) -> Answer:
    """The instruction and the input, nothing else."""
    model = load(base)
    return lambda inputs: _ask(model, [[_question(config, one)] for one in inputs], config)


def few_shot(base: Path, train: Sequence[Row], config: AdaptConfig) -> Answer:
    """The training examples most like the input before it, the most alike last (Liu et al. 2022, arXiv:2101.06804)."""
    model, search = load(base), search_over([row.input for row in train], config)

    def chat(one: str) -> list[Message]:
        shots = [train[i] for i in reversed(search.nearest(one, config.shots))]
        told = [m for r in shots for m in (_question(config, r.input), {"role": "assistant", "content": r.output})]
        return [*told, _question(config, one)]

    return lambda inputs: _ask(model, [chat(one) for one in inputs], config)


def retrieval(base: Path, train: Sequence[Row], config: AdaptConfig) -> Answer:
    """The best passages of the given documents before the input (Lewis et al. 2020, arXiv:2005.11401)."""
    model, passages = load(base), _passages(Path(config.documents))
    search = search_over(passages, config)

    def chat(one: str) -> list[Message]:
        found = "\n\n".join(passages[i] for i in search.nearest(one, config.passages))
        return [{"role": "user", "content": f"{found}\n\n{_question(config, one)['content']}"}]

    return lambda inputs: _ask(model, [chat(one) for one in inputs], config)


def best_of_n(base: Path, train: Sequence[Row], config: AdaptConfig) -> Answer:
    """Few-shot answers that vote (self-consistency: Wang et al. 2023, arXiv:2203.11171)."""
    model, search = load(base), search_over([row.input for row in train], config)

    def vote(one: str) -> str:
        shots = [train[i] for i in reversed(search.nearest(one, config.shots))]
        told = [m for r in shots for m in (_question(config, r.input), {"role": "assistant", "content": r.output})]
        seed = seed_for(config.seed, "vote", one)
        options = {"max_tokens": config.max_tokens, "temperature": 0.7, "n": config.samples, "seed": seed}
        answers = [c.text.strip() for c in model.generate_n([*told, _question(config, one)], **options)]
        return Counter(answers).most_common(1)[0][0]

    return lambda inputs: [vote(one) for one in inputs]


def classifier(base: Path, train: Sequence[Row], config: AdaptConfig) -> Answer:
    """A linear head on the frozen model's last hidden state: feature-based transfer."""
    model = load(base)
    labels = sorted({row.output for row in train})

    def features(inputs: Sequence[str]) -> torch.Tensor:
        ids = [render(model.tokenizer, [_question(config, one)]).ids for one in inputs]
        return last_hidden(model.module, ids, model.tokenizer.pad_id).cpu().clone()

    seen = features([row.input for row in train])
    mean, scale = seen.mean(0), seen.std(0) + 1e-5
    weight, bias = _logistic((seen - mean) / scale, [labels.index(row.output) for row in train], len(labels))

    def answer(inputs: Sequence[str]) -> list[str]:
        scores = ((features(inputs) - mean) / scale) @ weight.T + bias
        return [labels[int(i)] for i in scores.argmax(1)]

    return answer


def prompt_tuning(base: Path, train: Sequence[Row], config: AdaptConfig) -> Answer:
    """Learned vectors before the input, the model frozen (Lester et al. 2021, arXiv:2104.08691)."""
    model = load(base)
    attach(model.module, AdapterConfig(method="prompt", virtual_tokens=config.virtual_tokens), config.seed)
    assert isinstance(model.module.embedding, PromptEmbedding)
    virtual = model.module.embedding.virtual_ids
    encoded = []
    for row in train:
        told = render(model.tokenizer, [_question(config, row.input), {"role": "assistant", "content": row.output}])
        ids, mask = [*virtual, *told.ids], [*[False] * len(virtual), *told.loss_mask]
        encoded.append(Encoded(ids[: CONTEXT + 1], mask[: CONTEXT + 1], "task"))
    rows = PackedRows([one for one in encoded if any(one.mask[1:])], CONTEXT, model.tokenizer.pad_id, config.seed)
    steps = max(1, round(rows.rows_in(config.epochs) / BATCH))
    options: dict[str, Any] = {"steps": steps, "batch_size": BATCH, "context": CONTEXT, "optimizer": "adamw"}
    training = TrainingConfig(**options, learning_rate=0.1, seed=config.seed)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        objective = SupervisedFineTuning(rows, BATCH)
        Trainer(model.module, objective, training, work, log=work / "log.jsonl", title="prompt tuning").fit()
    model.module.eval()

    def answer(inputs: Sequence[str]) -> list[str]:
        asked = [model.request([_question(config, one)], max_tokens=config.max_tokens) for one in inputs]
        requests = [replace(request, prompt_ids=[*virtual, *request.prompt_ids]) for request in asked]
        return [completion.text.strip() for completion in model.engine.generate(requests)]

    return answer


def lora(base: Path, train: Sequence[Row], config: AdaptConfig) -> Answer:
    """A LoRA adapter, merged."""
    return _tuned(base, train, config, AdapterConfig(rank=8, alpha=16), 1e-3)


def full(base: Path, train: Sequence[Row], config: AdaptConfig) -> Answer:
    """All weights."""
    return _tuned(base, train, config, None, 1e-4)


ROADS: dict[str, Callable[[Path, Sequence[Row], AdaptConfig], Answer]] = {
    "zero-shot": zero_shot,
    "few-shot": few_shot,
    "retrieval": retrieval,
    "best-of-n": best_of_n,
    "classifier": classifier,
    "prompt-tuning": prompt_tuning,
    "lora": lora,
    "full": full,
}
TUNES = ("classifier", "prompt-tuning", "lora", "full")


def _tuned(base: Path, train: Sequence[Row], config: AdaptConfig, adapter: AdapterConfig | None, rate: float) -> Answer:
    folder = tempfile.TemporaryDirectory()
    work = Path(folder.name)
    rows = [{"messages": [_question(config, r.input), {"role": "assistant", "content": r.output}]} for r in train]
    (work / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    options: dict[str, Any] = {
        "data": (str(work / "rows.jsonl"),), "epochs": config.epochs, "batch_size": BATCH, "optimizer": "adamw",
        "learning_rate": rate, "adapter": adapter, "too_long": "truncate", "context": CONTEXT, "seed": config.seed,
    }  # fmt: skip
    draft = Draft(work / "files", work / "scratch", "adapt")
    draft.path.mkdir()
    draft.scratch.mkdir()
    build_sft(SFTConfig(**options), Inputs({"base": Artifact.outside(base, "model")}), draft)
    model = load(draft.path)

    def answer(inputs: Sequence[str]) -> list[str]:
        assert folder.name  # the directory lives as long as the answers are wanted
        return _ask(model, [[_question(config, one)] for one in inputs], config)

    return answer


def _logistic(features: torch.Tensor, labels: Sequence[int], classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Multinomial logistic regression with a little weight decay, by L-BFGS: (classes, dim) and (classes,)."""
    weight = torch.zeros(classes, features.shape[1], requires_grad=True)
    bias = torch.zeros(classes, requires_grad=True)
    wanted = torch.tensor(labels)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=60, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = torch.nn.functional.cross_entropy(features @ weight.T + bias, wanted) + 1e-2 * (weight**2).sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(loss)  # type: ignore[arg-type]
    return weight.detach(), bias.detach()


def _question(config: AdaptConfig, one: str) -> Message:
    return {"role": "user", "content": f"{config.instruction}\n\n{one}" if config.instruction else one}


def _ask(model: Model, chats: Sequence[Sequence[Message]], config: AdaptConfig) -> list[str]:
    requests = [model.request(chat, max_tokens=config.max_tokens) for chat in chats]
    return [completion.text.strip() for completion in model.engine.generate(requests)]


def _passages(path: Path) -> list[str]:
    """Paragraphs of a text file, or the texts of a JSONL file."""
    if path.suffix == ".jsonl":
        return [row["text"] for row in read_jsonl(path)]
    return [part.strip() for part in path.read_text(encoding="utf-8").split("\n\n") if part.strip()]
