"""The stage `reinforce`: GRPO with a verifier. The model answers, the answers are run, better ones become likelier.

Rollouts come from the engine on the very module that is trained, so what is sampled is what is served, and a step is
a pure function of (seed, step, weights): a killed run goes on bit for bit.
"""

from __future__ import annotations

import copy
import json
from typing import Any

import torch
from torch import Tensor, nn

from foundling.core.artifacts import Draft
from foundling.core.rng import numpy_rng, seed_for
from foundling.core.stages import Inputs
from foundling.evaluation.tasks.expressions import Item, generate, grade, messages
from foundling.inference.engine import Completion, Engine, Request, SamplingParams
from foundling.models.checkpoint import load_module
from foundling.models.language_model import LanguageModel
from foundling.post_training.config import ReinforceConfig
from foundling.post_training.policy import clipped_policy_loss, group_advantages, kl_penalty
from foundling.tokenization.chat import render
from foundling.tokenization.tokenizer import Tokenizer
from foundling.training.batch import Batch
from foundling.training.loss import token_logprobs
from foundling.training.model_card import model_card
from foundling.training.objective import LossSum
from foundling.training.pretrain import LOG, write_model
from foundling.training.trainer import Trainer

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
        """Clipped surrogate, summed over answer tokens; the count is their number."""
        mask = batch.loss_mask.bool()
        hidden = model.hidden(batch.tokens)
        logprobs = token_logprobs(hidden[mask], model.head, batch.targets[mask])
        old = batch.extra["logprobs"][mask]
        advantages = batch.extra["advantage"][:, None].expand_as(mask)[mask]
        losses = clipped_policy_loss(logprobs, old, advantages, self.config.clip_low, self.config.clip_high)
        metrics: dict[str, tuple[float | Tensor, float | Tensor]] = {
            "reward": (batch.extra["reward"].sum(), batch.rows),
            "mismatch": ((logprobs.detach() - old).abs().sum(), len(old)),
        }
        if self.reference is not None:
            with torch.no_grad():
                before = token_logprobs(
                    self.reference.hidden(batch.tokens)[mask], self.reference.head, batch.targets[mask]
                )
            penalty = kl_penalty(logprobs, before)
            losses = losses + self.config.kl * penalty
            metrics["kl"] = (penalty.detach().sum(), len(old))
        return LossSum(losses.sum(), max(batch.scored(), 1.0), metrics)

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
    tokenizer = Tokenizer.load(base.path)
    module = load_module(base.path)
    log = draft.scratch / LOG
    trainer = Trainer(
        module,
        GroupRelativePolicyOptimization(module, tokenizer, config),
        config,
        draft.scratch,
        log=log,
        data=f"{base.key} {draft.key}",
        flops_per_token=module.config.flops_per_token(config.context, training=True),
        title="reinforce",
    )
    summary = trainer.fit()
    draft.seeds["reinforce"] = config.seed
    draft.metrics |= {
        "steps": summary.steps,
        "answers": summary.steps * config.batch_size,
        "tokens": summary.tokens,
        "training_flops": summary.tokens * module.config.flops_per_token(config.context, training=True),
        "reward_last_step": summary.metrics["reward"],
        "rollout_mismatch_nats": summary.metrics["mismatch"],
    }
    draft.timings |= {"tokens_per_s": summary.tokens_per_s, "mfu": summary.mfu, "training_seconds": summary.seconds}
    card = model_card(
        "Model reinforced on a verifiable task",
        f"Reinforced with GRPO on {draft.metrics['answers']:,} answers to the task `{config.task}`, run to grade them.",
        inputs={port: f"{artifact.kind} `{artifact.key}`" for port, artifact in inputs.items()},
        recipe=json.loads(config.model_dump_json()),
        results={"Training": {"share of answers right, last step": draft.metrics["reward_last_step"]}},
        limits=("Tuned for one kind of task; what it says elsewhere may have become worse.",),
    )
    write_model(module, base.path, draft, log, card=card)
