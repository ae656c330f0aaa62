"""What each kind of stage costs: seconds, peak memory and disk, from its config and what is known of its inputs.

Training and evaluation are operations over the machine's measured rates. Data stages and sampling move text and tokens
at rates measured on a two-core machine. `foundling plan actual` shows how far a life was from its plan.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foundling.core.hardware import Rates
from foundling.core.units import human_bytes, human_count
from foundling.corpus.sources import text_bytes
from foundling.models import cost
from foundling.models.config import ModelConfig
from foundling.models.presets import preset
from foundling.planning.step_time import PROCESS_BYTES, kept_state, planned_memory, step_seconds

# Seconds for each megabyte of text, measured on two cores.
SECONDS_PER_MB = {"corpus": 0.34, "tokenizer": 0.21, "tokenize": 0.015}
BYTES_PER_TOKEN = 3.4
START_SECONDS = 4.0  # to build a model, look at the data and write the result
BASELINE_SECONDS = 12.0  # the held-out text, and gzip, xz and n-gram models beside a base model
TOKENS_PER_EXAMPLE = 45  # of a worked example of the expression task; answers are about a third of it
TOKENS_PER_ANSWER = 18
TOKENS_PER_SAMPLE = 30  # of an answer sampled at temperature 1
TOKENS_PER_ROLLOUT = 62  # of a prompt and a sampled answer to it, with what fills the rows
ENGINE_BYTES = 1e9  # of the inference engine at work
SAMPLED_TOKENS_PER_S = 9000.0  # at a hundred sequences together: bound by the number of operations, not by FLOPs
DEFAULT_CORPUS_BYTES = 40e6
DEFAULT_VOCABULARY = 4096
# Compression: reads and writes of every weight while scales are chosen; and how often all calibration tokens go
# through the model, with the sums of products of their activations.
WEIGHT_PASSES = {"nearest": 20, "search": 350, "gptq": 100, "awq": 400}
TEXT_PASSES = {"nearest": 0, "search": 0, "gptq": 6, "awq": 20}
SPEED_STEPS, SPEED_SECONDS_PER_BLOCK = 256, 4e-4  # tokens decoded one by one to compare speeds


@dataclass
class Facts:
    """What is known, or guessed, of an artifact before it is made. Zero or None: nothing."""

    text_bytes: float = 0.0
    vocab_size: int = 0
    model: ModelConfig | None = None


@dataclass
class StageEstimate:
    """What one stage should cost: seconds, peak bytes of memory, bytes on disk, and of checkpoints while it runs."""

    name: str
    verb: str
    reads: str
    makes: str
    reused: bool
    seconds: float = 1.0
    memory: float = PROCESS_BYTES
    disk: float = 0.0
    checkpoint: float = 0.0


@dataclass
class Job:
    """A stage to be priced: `estimate` is filled in, and what it makes is returned."""

    config: Any
    inputs: Mapping[str, Facts]
    rates: Rates
    estimate: StageEstimate

    def model(self, *ports: str) -> ModelConfig | None:
        """The architecture at the first of these ports that has one."""
        return next((self.inputs[port].model for port in ports if port in self.inputs), None)

    def text_bytes(self) -> float:
        """Text of the inputs."""
        return max((facts.text_bytes for facts in self.inputs.values()), default=0.0) or DEFAULT_CORPUS_BYTES

    def vocab_size(self) -> int:
        """Vocabulary of the inputs."""
        return max((facts.vocab_size for facts in self.inputs.values()), default=0) or DEFAULT_VOCABULARY


def _corpus(job: Job) -> Facts:
    text = float(text_bytes(job.config))
    job.estimate.seconds = 0.5 + SECONDS_PER_MB["corpus"] * text / 1e6
    job.estimate.memory = PROCESS_BYTES + 12 * text
    job.estimate.disk = 0.3 * text
    job.estimate.makes = f"{human_bytes(text)} of text"
    return Facts(text_bytes=text)


def _tokenizer(job: Job) -> Facts:
    text, vocabulary = job.text_bytes(), job.config.vocab_size
    job.estimate.seconds = SECONDS_PER_MB["tokenizer"] * text / 1e6
    job.estimate.memory = PROCESS_BYTES + 10 * text
    job.estimate.disk = 60.0 * vocabulary
    job.estimate.makes = f"{vocabulary} tokens"
    return Facts(vocab_size=vocabulary)


def _tokenize(job: Job) -> Facts:
    text, tokens = job.text_bytes(), job.text_bytes() / BYTES_PER_TOKEN
    job.estimate.seconds = 0.5 + SECONDS_PER_MB["tokenize"] * text / 1e6
    job.estimate.memory = PROCESS_BYTES + 4 * text
    job.estimate.disk = 2 * tokens
    job.estimate.makes = f"{human_count(tokens)} tokens"
    return Facts(text_bytes=text, vocab_size=job.vocab_size())


def _pretrain(job: Job) -> Facts:
    model = job.model("base") or preset(job.config.preset, vocab_size=job.vocab_size())
    made = _training(job, model, job.config.steps * job.config.batch_size * job.config.context)
    job.estimate.seconds += BASELINE_SECONDS
    return made


def _fine_tune(job: Job) -> Facts:
    config, model = job.config, job.model("base")
    if model is None:
        return Facts()
    rows = config.batch_size * config.context
    answers = 2 if job.estimate.verb in ("prefer", "reward", "contrast") else 1  # texts that an example has
    return _training(job, model, answers * config.steps * rows or config.epochs * _tokens(config, answers))


def _tokens(config: Any, answers: int) -> float:
    """Tokens of the user's own files, as they lie; else of so many worked expressions."""
    files = [Path(name).expanduser() for name in config.data]
    given = sum(file.stat().st_size for file in files if file.is_file())
    return given / BYTES_PER_TOKEN or answers * getattr(config, "examples", 1000) * TOKENS_PER_EXAMPLE


def _reinforce(job: Job) -> Facts:
    config, model = job.config, job.model("base")
    if model is None:
        return Facts()
    answers = config.steps * config.prompts * config.samples
    short = config.model_copy(update={"context": TOKENS_PER_ROLLOUT})
    made = _training(job, model, answers * TOKENS_PER_ROLLOUT * config.updates, short)
    job.estimate.seconds += answers * TOKENS_PER_SAMPLE / SAMPLED_TOKENS_PER_S
    job.estimate.memory += ENGINE_BYTES
    return made


def _distill(job: Job) -> Facts:
    """The student's training, and the teacher's forward pass over the same tokens (once, if its best are kept)."""
    config, teacher = job.config, job.model("teacher")
    vocabulary = teacher.vocab_size if teacher else job.vocab_size()
    student = job.model("base") or preset(config.preset, vocab_size=vocabulary)
    tokens = config.steps * config.batch_size * config.context
    made = _training(job, student, tokens)
    if teacher is not None:
        forward = cost.flops_per_token(teacher, config.context) / job.rates.small_matmul(config.precision)
        job.estimate.seconds += tokens * (forward + teacher.vocab_size / job.rates.softmax)
        job.estimate.memory += cost.weight_bytes(teacher, 2 if config.precision != "fp32" else 4)
    if config.prompts:
        answers = config.examples + config.on_policy * config.steps * config.batch_size
        job.estimate.seconds += answers * TOKENS_PER_ANSWER / SAMPLED_TOKENS_PER_S
    if config.top_k:
        job.estimate.checkpoint += tokens * config.top_k * 6.0
    return made


def _training(job: Job, model: ModelConfig, tokens: float, config: Any = None) -> Facts:
    config = config or job.config
    per_token = step_seconds(model, config, job.rates) / (config.batch_size * config.context)
    job.estimate.seconds = START_SECONDS + tokens * per_token
    job.estimate.memory = planned_memory(model, config)
    job.estimate.disk = 4.0 * cost.n_parameters(model)
    job.estimate.checkpoint = 4.0 * cost.n_parameters(model) + kept_state(model, config)
    job.estimate.makes = f"{human_count(cost.n_parameters(model))} parameters"
    return Facts(vocab_size=model.vocab_size, model=model)


def _evaluate(job: Job) -> Facts:
    config, model = job.config, job.model("model")
    if model is None:
        return Facts()
    job.estimate.seconds = 2.0
    if "expressions" in config.tasks:
        answers = 2 * config.expressions.items * (1 + config.expressions.samples)
        job.estimate.seconds += answers * TOKENS_PER_ANSWER / SAMPLED_TOKENS_PER_S
        job.estimate.disk += 60.0 * answers
    if "bits-per-byte" in config.tasks:
        read = config.bits_per_byte.max_bytes / BYTES_PER_TOKEN / (1 - config.bits_per_byte.window_context)
        job.estimate.seconds += read * cost.flops_per_token(model, 1024) / (0.25 * job.rates.fp32)
    job.estimate.memory = PROCESS_BYTES + 4 * cost.weight_bytes(model) + ENGINE_BYTES
    job.estimate.makes = f"{len(config.tasks)} tasks"
    return Facts()


def _compress(job: Job) -> Facts:
    """Choosing the codes, comparing predictions on held-out text, and both models' speed, token by token."""
    config, model = job.config, job.model("model")
    if model is None:
        return Facts()
    n, matrices = cost.n_parameters(model), cost.n_parameters(model, embeddings=False)
    compared = config.compare_bytes / BYTES_PER_TOKEN if "corpus" in job.inputs else 0.0
    longest = min(compared, model.max_positions)
    calibrated = config.calibration_rows * config.calibration_length if config.needs_text else 0
    passes = TEXT_PASSES[config.method] + (3 if config.prune or config.shrink else 0) + (3 if config.max_bytes else 0)
    per_token = cost.flops_per_token(model, int(max(longest, config.calibration_length))) / job.rates.fp32
    decoding = max(4.0 * n / job.rates.bandwidth, SPEED_SECONDS_PER_BLOCK * len(model.blocks))
    job.estimate.seconds = START_SECONDS + WEIGHT_PASSES[config.method] * matrices / job.rates.elementwise
    job.estimate.seconds += (2 * compared + passes * calibrated) * per_token
    job.estimate.seconds += 2 * compared * model.vocab_size * 4 / job.rates.softmax + SPEED_STEPS * decoding
    logits = 6.0 * 4 * longest * model.vocab_size
    job.estimate.memory = PROCESS_BYTES + 8.0 * n + max(logits, 16.0 * calibrated * model.dim)
    job.estimate.disk = matrices * config.bits / 8 + 2.0 * (n - matrices)
    job.estimate.makes = f"{config.bits}-bit weights"
    return Facts(vocab_size=model.vocab_size, model=model)


def _same_shape(job: Job) -> Facts:
    """Stages that read models and write one of the same shape."""
    model = next((facts.model for facts in job.inputs.values() if facts.model is not None), None)
    if model is None:
        return Facts()
    n = cost.n_parameters(model)
    job.estimate.seconds = START_SECONDS + 4.0 * n * (len(job.inputs) + 1) / job.rates.bandwidth
    job.estimate.memory = PROCESS_BYTES + 4.0 * n * (len(job.inputs) + 1)
    job.estimate.disk = 4.0 * n
    job.estimate.makes = f"{human_count(n)} parameters"
    return Facts(vocab_size=model.vocab_size, model=model)


def _synthesize(job: Job) -> Facts:
    rows = job.config.n
    job.estimate.seconds = START_SECONDS + rows * job.config.max_tokens / SAMPLED_TOKENS_PER_S
    model = job.model("model")
    job.estimate.memory = PROCESS_BYTES + (4.0 * cost.n_parameters(model) if model else 0.0) + ENGINE_BYTES
    job.estimate.makes = f"{rows} rows"
    return Facts()


ESTIMATES: Mapping[str, Callable[[Job], Facts]] = {
    "corpus": _corpus,
    "tokenizer": _tokenizer,
    "tokenize": _tokenize,
    "extend": _same_shape,
    "pretrain": _pretrain,
    "synthesize": _synthesize,
    "sft": _fine_tune,
    "prefer": _fine_tune,
    "reward": _fine_tune,
    "classify": _fine_tune,
    "contrast": _fine_tune,
    "reinforce": _reinforce,
    "evaluate": _evaluate,
    "compress": _compress,
    "merge": _same_shape,
    "distill": _distill,
}
