"""The stage `reinforce`: GRPO with a verifier. The model answers, the answers are run, better ones become likelier.

Rollouts come from the engine on the very module that is trained, so what is sampled is what is served, and a step is
a pure function of (seed, step, weights): a killed run goes on bit for bit.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from foundling.core.artifacts import Draft
from foundling.core.rng import numpy_rng, seed_for
from foundling.core.stages import Inputs
from foundling.evaluation.tasks.expressions import Item, generate, grade, messages
from foundling.inference.engine import Completion, Engine, Request, SamplingParams
from foundling.models.language_model import LanguageModel
from foundling.post_training.config import ReinforceConfig
from foundling.post_training.logprobs import batch_logprobs
from foundling.post_training.policy import clipped_policy_loss, group_advantages, kl_penalty, normalised_sum
from foundling.post_training.tuning import load_base, tune, tuned_card, write_tuned
from foundling.tokenization.chat import render
from foundling.tokenization.tokenizer import Tokenizer
from foundling.training.batch import Batch
from foundling.training.objective import LossSum

POOL = 20_000  # different instructions to draw from


class GroupRelativePolicyOptimization:
    """GRPO (Shao et al. 2024, arXiv:2402.03300) on the expression task, normalised by the number of answer tokens.

    Every step draws `prompts` instructions and `samples` answers to each; the reward is 1 for an answer that passes
    on all hidden inputs. Groups whose answers are all right or all wrong teach nothing and weigh nothing.
    """

    def __init__(self, module: LanguageModel, tokenizer: Tokenizer, config: ReinforceConfig) -> None:
        self.config, self.tokenizer = config, tokenizer
        self.engine = Engine(module, tokenizer, max_batch=config.prompts * config.samples)
        self.reference = copy.deepcopy(module).requires_grad_(False) if config.kl else None
        self.pool = generate("train", POOL, seed_for(config.seed, "reinforce") % 1000)

    def batch(self, step: int, model: nn.Module | None = None) -> Batch:
        """Fresh answers of the current weights, with their advantages."""
        chosen = numpy_rng(self.config.seed, "prompts", step).choice(len(self.pool), self.config.prompts, replace=False)
        items = [self.pool[int(index)] for index in chosen]
        training = self.engine.module.training
        self.engine.module.eval()
        self.engine.weights_changed()
        requests = [self._request(item, step) for item in items]
        done = self.engine.generate(requests)
        self.engine.module.train(training)
        repeated = [item for item in items for _ in range(self.config.samples)]
        outcomes = grade(repeated, [completion.text for completion in done])
        rewards = torch.tensor([float(outcome.passed) for outcome in outcomes]).view(len(items), -1)
        advantages = group_advantages(rewards, normalise_std=self.config.normalise_std)
        batch = self._padded([request.prompt_ids for request in requests], done, advantages.flatten())
        batch.extra["reward"] = rewards.flatten()
        batch.sources = [item.id for item in repeated]
        return batch

    def loss(self, model: Any, batch: Batch) -> LossSum:
        """Clipped surrogate over the answers' tokens, divided as `normalise` says."""
        mask = batch.loss_mask
        count = float(mask.sum())
        logprobs = batch_logprobs(model, batch, self.config.temperature)
        # The engine reports log-probabilities at temperature 1. At another one the only update on these answers is the
        # first, where old and new are equal.
        old = batch.extra["logprobs"] if self.config.temperature == 1 else logprobs.detach()
        advantages = batch.extra["advantage"][:, None].expand_as(mask)
        losses = clipped_policy_loss(logprobs, old, advantages, self.config.clip_low, self.config.clip_high)
        metrics: dict[str, tuple[float | Tensor, float | Tensor]] = {
            "reward": (batch.extra["reward"].sum(), batch.rows),
            "mismatch": (((logprobs.detach() - old).abs() * mask).sum(), count),
            "answer_tokens": (count, batch.rows),
        }
        if self.reference is not None:
            with torch.no_grad():
                before = batch_logprobs(self.reference, batch, self.config.temperature)
            penalty = kl_penalty(logprobs, before)
            losses = losses + self.config.kl * penalty
            metrics["kl"] = ((penalty.detach() * mask).sum(), count)
        total, divisor = normalised_sum(losses, mask, self.config.normalise, self.config.max_tokens)
        return LossSum(total, max(divisor, 1.0), metrics)

    def _request(self, item: Item, step: int) -> Request:
        prompt = render(self.tokenizer, messages(item), add_generation_prompt=True)
        params = SamplingParams(
            max_tokens=min(self.config.max_tokens, self.config.context - len(prompt.ids)),
            temperature=self.config.temperature,
            n=self.config.samples,
            seed=seed_for(self.config.seed, "answers", step, item.id),
            stop_ids=prompt.stop_ids,
        )
        return Request(prompt.ids, params)

    def _padded(self, prompts: list[Any], done: list[Completion], advantages: Tensor) -> Batch:
        """One row an answer, padded on the right, where a causal model does not see it."""
        rows = [[*prompts[i // self.config.samples], *completion.tokens] for i, completion in enumerate(done)]
        time = max(len(row) for row in rows) - 1
        shape = (len(rows), time)
        tokens = torch.full(shape, self.tokenizer.pad_id)
        targets, mask, logprobs = torch.zeros(shape, dtype=torch.int64), torch.zeros(shape), torch.zeros(shape)
        for r, (row, completion) in enumerate(zip(rows, done, strict=True)):
            tokens[r, : len(row) - 1], targets[r, : len(row) - 1] = torch.tensor(row[:-1]), torch.tensor(row[1:])
            answer = slice(len(row) - 1 - len(completion.tokens), len(row) - 1)
            mask[r, answer], logprobs[r, answer] = 1.0, torch.tensor(completion.logprobs)
        return Batch(tokens, targets, mask, extra={"logprobs": logprobs, "advantage": advantages})


def build_reinforced(config: ReinforceConfig, inputs: Inputs, draft: Draft) -> None:
    """Reinforce the base model on a verifiable task and write it as a Hugging Face directory."""
    base = inputs["base"]
    config = config.model_copy(update={"batch_size": config.prompts * config.samples})
    module, tokenizer = load_base(base, config)
    objective = GroupRelativePolicyOptimization(module, tokenizer, config)
    summary = tune(module, objective, config, base, draft, "reinforce")
    draft.metrics |= {
        "answers": summary.steps * config.batch_size,
        "reward_last_step": summary.metrics["reward"],
        "rollout_mismatch_nats": summary.metrics["mismatch"],
    }
    card = tuned_card(
        "Model reinforced on a verifiable task",
        f"Reinforced with GRPO on {draft.metrics['answers']:,} answers to the task `{config.task}`, graded by a run.",
        config,
        inputs,
        {"Training": {"share of answers right, last step": draft.metrics["reward_last_step"]}},
        ("Tuned for one kind of task; what it says elsewhere may have become worse.",),
    )
    write_tuned(module, tokenizer, config, base, draft, card)
