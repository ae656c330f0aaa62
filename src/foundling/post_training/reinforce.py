"""The stage `reinforce`: the model answers, the answers are judged, better ones become likelier.

A step is a pure function of (seed, step, weights), so a killed run goes on bit for bit.
"""

from __future__ import annotations

from collections import Counter

from foundling.core.artifacts import Draft
from foundling.core.stages import Inputs
from foundling.post_training.config import ReinforceConfig
from foundling.post_training.grpo import GroupRelativePolicyOptimization
from foundling.post_training.ppo import ActorCritic, ProximalPolicyOptimization
from foundling.post_training.reward_model import load_ensemble
from foundling.post_training.rewards import read_prompts
from foundling.post_training.rollouts import Rollouts
from foundling.post_training.tuning import load_base, prepare, tune, tuned_card, write_tuned

REWARD_PORTS = ("reward", "reward2", "reward3")  # one reward model, or an ensemble


def build_reinforced(config: ReinforceConfig, inputs: Inputs, draft: Draft) -> None:
    """Reinforce the base model on verifiable prompts, or against a reward model, and write it as a directory.

    Raises:
        FoundlingError: prompts that cannot be verified, a reward that is no number, what the loop refuses.
    """
    base = inputs["base"]
    judges = [judge.path for port in REWARD_PORTS if (judge := inputs.get(port)) is not None]
    config = config.model_copy(update={"batch_size": config.prompts * config.samples})
    module, tokenizer = load_base(base)
    prepare(module, config)
    skipped: Counter[str] = Counter()
    pool = read_prompts(config, skipped)
    score = load_ensemble(judges, config.ensemble) if judges else None
    saved = draft.scratch / "rollouts" if config.updates > 1 or config.method == "ppo" else None
    rollouts = Rollouts(module, tokenizer, config, pool, score, saved)
    if config.method == "ppo":
        model = ActorCritic(module)
        ppo = ProximalPolicyOptimization(model, rollouts, config)
        summary = tune(model, ppo, config, base, draft, "reinforce", module.config)
    else:
        objective = GroupRelativePolicyOptimization(module, rollouts, config, measure_kl=score is not None)
        summary = tune(module, objective, config, base, draft, "reinforce", module.config)
    draft.metrics |= {
        "answers": summary.steps // config.updates * config.batch_size,
        "skipped": dict(skipped),
        "reward_last_step": summary.metrics["reward"],
        "verified_last_step": summary.metrics["verified"],
        "rollout_mismatch_nats": summary.metrics["mismatch"],
    }
    card = tuned_card(
        "Reinforced language model",
        f"Reinforced with {config.method.upper()} on {draft.metrics['answers']:,} of its own answers, each judged.",
        config,
        inputs,
        {"Training": {"reward, last step": draft.metrics["reward_last_step"]}},
        ("Tuned for one kind of task; what it says elsewhere may have become worse.",),
    )
    write_tuned(module, tokenizer, config, base, draft, card)
