"""Answers of the current weights with their rewards, from the engine at the precision of training."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from foundling.core.rng import numpy_rng, seed_for
from foundling.inference.engine import BLOCK_SIZE, Completion, Engine, Request, SamplingParams
from foundling.models.language_model import LanguageModel
from foundling.post_training.acting import acting, refresh
from foundling.post_training.config import ReinforceConfig
from foundling.post_training.rewards import Prompted, Score, judge
from foundling.tokenization.chat import render
from foundling.tokenization.tokenizer import Tokenizer
from foundling.training.batch import Batch


class Rollouts:
    """Rollout n: `prompts` prompts drawn by (seed, n), `samples` answers each by the weights at that moment.

    Args:
        score: a reward model, in place of the verifiers' verdicts.
        saved: a folder to keep a rollout in while several updates learn from it, so that a run killed between them
            goes on with the same answers; None where each is used once.
    """

    def __init__(
        self,
        module: LanguageModel,
        tokenizer: Tokenizer,
        config: ReinforceConfig,
        pool: list[Prompted],
        score: Score | None = None,
        saved: Path | None = None,
    ) -> None:
        self.config, self.tokenizer, self.pool, self.score, self.saved = config, tokenizer, pool, score, saved
        answers = config.prompts * config.samples
        room = answers * (config.context + BLOCK_SIZE)
        self.module = module
        self.engine = Engine(acting(module, config.precision), tokenizer, max_batch=answers, max_tokens_in_cache=room)
        self.reasons: Counter[str] = Counter()

    def batch(self, number: int) -> Batch:
        """One row an answer, padded on the right, where a causal model does not see it.

        `extra`: "logprobs" (rows, time) the engine's; "reward" and "passed" (rows,).
        """
        rng = numpy_rng(self.config.seed, "prompts", number)
        chosen = rng.choice(len(self.pool), self.config.prompts, replace=False)
        prompts = [self.pool[int(index)] for index in chosen]
        sources = [prompt.id for prompt in prompts for _ in range(self.config.samples)]
        if self.saved is not None and self._path(number).exists():
            return _load(self._path(number), sources)
        batch = self._fresh(number, prompts)
        batch.sources = sources
        self.keep(number, batch)
        return batch

    def keep(self, number: int, batch: Batch) -> None:
        """Keep a rollout, whole or not at all, where several updates learn from it."""
        if self.saved is None:
            return
        self.saved.mkdir(parents=True, exist_ok=True)
        fields = {"tokens": batch.tokens, "targets": batch.targets, "loss_mask": batch.loss_mask}
        tensors: dict[str, Tensor] = fields | {f"extra.{name}": value for name, value in batch.extra.items()}
        partial = self._path(number, ".tmp")
        save_file({name: value.contiguous() for name, value in tensors.items()}, partial)
        partial.replace(self._path(number))

    def _path(self, number: int, ending: str = ".safetensors") -> Path:
        assert self.saved is not None
        return self.saved / f"rollout-{number:06d}{ending}"

    def _fresh(self, number: int, prompts: list[Prompted]) -> Batch:
        training = self.module.training
        self.module.eval()
        if self.engine.module is not self.module:
            refresh(self.engine.module, self.module)
        self.engine.weights_changed()
        requests = [self._request(prompt, number) for prompt in prompts]
        done = self.engine.generate(requests)
        self.module.train(training)
        repeated = [prompt for prompt in prompts for _ in range(self.config.samples)]
        judged = judge(repeated, [completion.text for completion in done], self.config, self.score)
        self.reasons += judged.reasons
        batch = self._padded([list(request.prompt_ids) for request in requests], done)
        batch.extra |= {"reward": torch.tensor(judged.rewards), "passed": torch.tensor(judged.passed).float()}
        return batch

    def _request(self, prompt: Prompted, number: int) -> Request:
        rendered = render(self.tokenizer, prompt.messages, add_generation_prompt=True)
        params = SamplingParams(
            max_tokens=max(1, min(self.config.max_tokens, self.config.context - len(rendered.ids))),
            temperature=self.config.temperature,
            n=self.config.samples,
            seed=seed_for(self.config.seed, "answers", number, prompt.id),
            stop_ids=rendered.stop_ids,
        )
        return Request(rendered.ids, params)

    def _padded(self, prompts: list[list[int]], done: list[Completion]) -> Batch:
        rows = [[*prompts[i // self.config.samples], *completion.tokens] for i, completion in enumerate(done)]
        shape = (len(rows), max(len(row) for row in rows) - 1)
        tokens = torch.full(shape, self.tokenizer.pad_id)
        targets, mask, logprobs = torch.zeros(shape, dtype=torch.int64), torch.zeros(shape), torch.zeros(shape)
        for r, (row, completion) in enumerate(zip(rows, done, strict=True)):
            tokens[r, : len(row) - 1], targets[r, : len(row) - 1] = torch.tensor(row[:-1]), torch.tensor(row[1:])
            answer = slice(len(row) - 1 - len(completion.tokens), len(row) - 1)
            mask[r, answer], logprobs[r, answer] = 1.0, torch.tensor(completion.logprobs)
        return Batch(tokens, targets, mask, extra={"logprobs": logprobs})


def _load(path: Path, sources: list[str]) -> Batch:
    tensors = load_file(path)
    extra = {name.removeprefix("extra."): tensors[name] for name in sorted(tensors) if name.startswith("extra.")}
    return Batch(tensors["tokens"], tensors["targets"], tensors["loss_mask"], extra=extra, sources=sources)
