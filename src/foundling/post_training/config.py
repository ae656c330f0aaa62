"""What each post-training method is asked to do. No torch here."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import model_validator

from foundling.core.config import Config, option
from foundling.models.adapter_config import AdapterConfig
from foundling.training.config import MAX_RATE, ScheduleName, TrainingConfig

EXPRESSIONS = "expressions"
OWN_EXPRESSIONS = "own-expressions"
Invalid = Literal["refuse", "skip"]
Policy = Literal["refuse", "skip", "truncate"]
PreferenceMethod = Literal["dpo", "cdpo", "robust", "ipo", "hinge", "simpo", "orpo", "kto"]


class TuningConfig(TrainingConfig):
    """What all post-training stages share."""

    adapter: AdapterConfig | None = option(
        None, "train an adapter beside the frozen base and merge it in the end; none: train all weights"
    )

    @model_validator(mode="after")
    def _mergeable(self) -> Self:
        if self.adapter is not None and self.adapter.method == "prompt":
            raise ValueError("a learned prompt cannot be merged into a model; it is for `foundling adapt`")
        return self


class RowsConfig(TuningConfig):
    """What the stages that pass over given rows share."""

    invalid: Invalid = option("refuse", "a row that is not of the form: refuse by file and line, or skip (counted)")
    too_long: Policy = option("refuse", "a row longer than the context: refuse, skip (counted) or truncate")
    epochs: float = option(1.0, "passes over the rows", gt=0)
    steps: int = option(0, "optimizer steps; 0: as many as the epochs take", ge=0)
    learning_rate: float = option(3e-4, "peak rate of AdamW: vectors, embeddings, head", gt=0, le=MAX_RATE)
    matrix_learning_rate: float = option(3e-3, "peak rate of Muon, for the matrices of the blocks", gt=0, le=MAX_RATE)
    schedule: ScheduleName = option("linear", "shape of the learning rate over the steps")


class PairsConfig(RowsConfig):
    """What the stages that learn from pairs of answers share."""

    examples: int = option(1500, "prompts to answer, for a task", ge=1)
    samples: int = option(8, "answers sampled for each prompt of a task", ge=2)
    temperature: float = option(1.0, "of these samples", gt=0)
    pairs_per_prompt: int = option(2, "most pairs made of one prompt's answers", ge=1)
    max_tokens: int = option(48, "longest sampled answer in tokens", ge=1)
    batch_size: int = option(32, "pairs (kto: answers) in one step", ge=1)


class SFTConfig(RowsConfig):
    """The stage `sft`: the loss is on what the assistant says, and on nothing else."""

    data: tuple[str, ...] = option(
        (EXPRESSIONS,),
        "chat or prompt/completion rows (.jsonl, .parquet); the task `expressions`; or, for the base's own right "
        "answers (rejection sampling), rows {prompt, verifier, data} or `own-expressions`",
        min_length=1,
    )
    examples: int = option(10_000, "examples to generate of a task; of own-expressions: prompts to answer", ge=1)
    samples: int = option(8, "own answers: how many are sampled for each prompt", ge=1)
    temperature: float = option(1.0, "own answers: of the samples", gt=0)
    keep: int = option(4, "own answers: most right ones kept of a prompt", ge=1)
    max_tokens: int = option(48, "own answers: longest one in tokens", ge=1)
    noise: float = option(0.0, "NEFTune's alpha: noise on the embeddings in training; 0: none", ge=0)
    init: Literal["base", "random"] = option(
        "base", "random: the base's architecture and tokenizer with fresh weights, to see what pretraining bought"
    )
    too_long: Literal["refuse", "skip", "truncate", "split"] = option(  # type: ignore[assignment]
        "refuse", "an example longer than the context: refuse, skip (counted), truncate, or split into several"
    )
    turns: Literal["all", "last"] = option(
        "all", "which answers of a chat are learned; one with `weight: 0` never is, but later ones see it"
    )
    batch_size: int = option(4, "packed rows in one step: many small steps learn a format fastest", ge=1)
    learning_rate: float = option(0.01, "peak rate of AdamW: vectors, embeddings, head", gt=0, le=MAX_RATE)
    matrix_learning_rate: float = option(0.02, "peak rate of Muon, for the matrices of the blocks", gt=0, le=MAX_RATE)


class SynthesizeConfig(Config):
    """The stage `synthesize`: rows to learn from, written or judged by a model, here or behind a URL."""

    method: Literal["instructions", "revisions", "preferences", "refusals"] = option(
        "instructions",
        "new instructions from seeds; answers criticised and revised by a constitution; pairs that a judge decides; "
        "refusals of harmful prompts among answers to benign ones",
    )
    data: tuple[str, ...] = option(
        (EXPRESSIONS,),
        "seeds or prompts: rows with `prompt`, `instruction` or `messages` (.jsonl, .parquet), or the task "
        "`expressions`; refusals: harmful prompts without an answer, benign ones with",
        min_length=1,
    )
    url: str = option("", "an OpenAI-compatible URL whose model writes, in place of the input `model`")
    judge_url: str = option("", "one whose model criticises and judges, in place of the input `judge`")
    constitution: str = option("", "a YAML file {principles: [a sentence, ...]}; none: four general ones")
    n: int = option(200, "instructions to write, or most prompts to take", ge=1)
    min_score: int = option(0, "least points of five that a judge must give a row; 0: rows are not rated", ge=0, le=5)
    temperature: float = option(0.8, "of what is written; verdicts are greedy", ge=0)
    max_tokens: int = option(256, "longest answer in tokens", ge=1)
    invalid: Invalid = option("refuse", "a row without a prompt: refuse, or skip (counted)")
    seed: int = option(0, "of sampling and of what is shown", ge=0)


class ReinforceConfig(TuningConfig):
    """The stage `reinforce`: learn from rewards of the model's own answers."""

    data: tuple[str, ...] = option(
        (EXPRESSIONS,), "rows {prompt, verifier, data} (.jsonl, .parquet), or the task `expressions`", min_length=1
    )
    invalid: Invalid = option("refuse", "a row that cannot be verified: refuse, or skip (counted)")
    method: Literal["grpo", "ppo"] = option("grpo", "grpo: compare a prompt's answers; ppo: compare with a critic")
    updates: int = option(1, "optimizer steps on the same answers", ge=1)
    wrong_reward: float = option(0.0, "reward of a wrong answer; a right one has 1", le=1)
    unsure_reward: float = option(0.0, "reward of an answer that says it does not know", le=1)
    unsure: tuple[str, ...] = option(("I don't know", "I do not know"), "how an answer says that it does not know")
    verified_weight: float = option(
        0.0, "with a reward model: weight of the verifier's reward beside the model's score", ge=0
    )
    ensemble: Literal["mean", "worst", "cautious"] = option(
        "cautious", "several reward models: their mean, the least, or the mean less their standard deviation"
    )
    discount: float = option(1.0, "ppo: discount of later rewards a token", gt=0, le=1)
    trace: float = option(0.95, "ppo: lambda of the advantage estimates", ge=0, le=1)
    value_weight: float = option(0.5, "ppo: weight of the critic's loss", ge=0)
    value_clip: float = option(0.2, "ppo: how far an update may move the critic", gt=0)
    prompts: int = option(32, "instructions in a step", ge=1)
    samples: int = option(8, "answers sampled for each instruction: the group", ge=2)
    temperature: float = option(1.0, "of the samples", gt=0)
    max_tokens: int = option(48, "longest answer in tokens", ge=1)
    clip_low: float = option(0.2, "how far below 1 the probability ratio may push", gt=0, lt=1)
    clip_high: float = option(0.28, "how far above 1 (DAPO's clip-higher)", gt=0)
    kl: float = option(0.0, "weight of the KL penalty to the model it started from; 0: none", ge=0)
    normalise: Literal["tokens", "answers", "constant"] = option(
        "tokens", "what the loss is divided by: see post_training/policy.py (DAPO, GRPO, Dr. GRPO)"
    )
    normalise_std: bool = option(False, "divide advantages by the group's standard deviation (GRPO; Dr. GRPO does not)")
    steps: int = option(30, "optimizer steps", ge=1)
    batch_size: int = option(256, "prompts times samples; set by them", ge=1)
    micro_batch: int = option(64, "rows in one forward pass; 0: all", ge=0)
    context: int = option(128, "longest prompt with its answer, in tokens", ge=2)
    learning_rate: float = option(2e-4, "peak rate of AdamW: vectors, embeddings, head", gt=0, le=MAX_RATE)
    matrix_learning_rate: float = option(2e-3, "peak rate of Muon, for the matrices of the blocks", gt=0, le=MAX_RATE)
    schedule: ScheduleName = option("constant", "shape of the learning rate over the steps")
    warmup: float = option(0.1, "part of the steps in which the rate rises from zero", ge=0, lt=1)

    @model_validator(mode="after")
    def _on_policy_at_another_temperature(self) -> Self:
        if self.temperature != 1 and (self.updates > 1 or self.method == "ppo"):
            raise ValueError("at a temperature other than 1 an answer can be learned from only once, by grpo")
        if self.steps % self.updates:
            raise ValueError(f"steps ({self.steps}) is not a multiple of updates ({self.updates})")
        return self


class RewardConfig(PairsConfig):
    """The stage `reward`: a model whose score says how good an answer is."""

    data: tuple[str, ...] = option(
        (EXPRESSIONS,),
        "rows {prompt, chosen, rejected} (.jsonl, .parquet); or, for the base's own answers, graded and paired, rows "
        "{prompt, verifier, data} or the task `expressions`",
        min_length=1,
    )
    loss: Literal["bradley-terry", "pointwise"] = option(
        "bradley-terry", "compare the two answers, or judge each alone"
    )
    margin: float = option(0.0, "bradley-terry: by how much the chosen answer must be ahead", ge=0)
    centre: float = option(0.0, "weight that holds the sum of a pair's scores near zero", ge=0)
    freeze: bool = option(False, "train the head alone")
    held_out: float = option(0.1, "share of prompts kept for measuring accuracy and calibration", gt=0, lt=1)


class ClassifyConfig(RowsConfig):
    """The stage `classify`: labels in place of words."""

    data: tuple[str, ...] = option(
        help="rows {text, label}, {prompt, label}, {messages, label}; of words: {words, labels} (.jsonl, .parquet)",
        min_length=1,
    )
    task: Literal["classes", "numbers", "words"] = option(
        "classes", "what is read off a text: its class, a number (regression), or a class of each word"
    )
    freeze: bool = option(False, "train the head alone (feature-based transfer)")
    held_out: float = option(0.2, "share of the texts kept for measuring", gt=0, lt=1)
    epochs: float = option(3.0, "passes over the texts", gt=0)
    batch_size: int = option(16, "texts in one step", ge=1)


class ContrastConfig(RowsConfig):
    """The stage `contrast`: texts as vectors, near for pairs that belong together and far for all others."""

    data: tuple[str, ...] = option(
        help="rows {query, passage}, with `negatives` if there are any, or {text} alone (.jsonl, .parquet)",
        min_length=1,
    )
    single: Literal["crops", "dropout"] = option(
        "crops", "what a row with one text is paired with: two random crops of it (Contriever), itself (SimCSE)"
    )
    pooling: Literal["base", "mean", "cls", "lasttoken"] = option(
        "base", "from the states of a text's tokens to its vector; base: as the base model's directory says, else mean"
    )
    temperature: float = option(0.05, "of the softmax over similarities, at the start; it is learnt", ge=0.01, le=1)
    negatives: int = option(4, "most of a row's own `negatives` that are used, from the first on", ge=0)
    held_out: float = option(0.1, "share of the rows kept for measuring (about 2,000 at most)", gt=0, lt=1)
    too_long: Policy = option(
        "truncate", "a text longer than the context: refuse, skip (counted) or truncate (counted)"
    )
    batch_size: int = option(64, "pairs in one step: each is told from all others of the step", ge=2)
    context: int = option(128, "longest text, in tokens", ge=2)
    matrix_learning_rate: float = option(1e-3, "peak rate of Muon, for the matrices of the blocks", gt=0, le=MAX_RATE)
    warmup: float = option(0.1, "part of the steps in which the rate rises from zero", ge=0, lt=1)

    @model_validator(mode="after")
    def _whole_batches(self) -> ContrastConfig:
        if 0 < self.micro_batch < self.batch_size:
            what = "micro_batch would tell a pair from the others of its part only: use `recompute` to save memory"
            raise ValueError(what)
        if self.single == "dropout" and not self.dropout:
            raise ValueError("single 'dropout' pairs a text with itself under dropout: set dropout, 0.1 is usual")
        return self


class PreferConfig(PairsConfig):
    """The stage `prefer`: learn from pairs of a better and a worse answer, or (kto) from answers judged one by one."""

    data: tuple[str, ...] = option(
        (EXPRESSIONS,),
        "rows {prompt, chosen, rejected} or {prompt, completion, label} (.jsonl, .parquet); or, for the model's own "
        "answers, graded and paired, rows {prompt, verifier, data} or the task `expressions`",
        min_length=1,
    )
    method: PreferenceMethod = option("dpo", "which loss: see post_training/preference.py")
    beta: float = option(0.1, "how strongly the model is held to its reference (simpo: the scale of the margin)", gt=0)
    flipped: float = option(0.1, "cdpo, robust: the share of labels expected to be wrong", ge=0, lt=0.5)
    gamma: float = option(0.5, "simpo: the margin to reach", ge=0)
    sft_weight: float = option(0.0, "weight of the chosen answer's cross entropy a token; orpo needs 1", ge=0)
    desirable_weight: float = option(1.0, "kto: weight of the good answers", gt=0)
    undesirable_weight: float = option(1.0, "kto: weight of the bad answers", gt=0)
    learning_rate: float = option(1e-4, "peak rate of AdamW: vectors, embeddings, head", gt=0, le=MAX_RATE)
    matrix_learning_rate: float = option(1e-3, "peak rate of Muon, for the matrices of the blocks", gt=0, le=MAX_RATE)
    warmup: float = option(0.1, "part of the steps in which the rate rises from zero", ge=0, lt=1)

    @model_validator(mode="after")
    def _orpo_has_no_reference(self) -> PreferConfig:
        if self.method == "orpo" and self.sft_weight == 0:
            raise ValueError("orpo without the cross entropy of the chosen answer only forgets: set sft_weight to 1")
        return self
