"""What to evaluate a model on, and how it is asked. No torch."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import field_validator

from foundling.core.config import Config, option


class BitsPerByteConfig(Config):
    """Rolling log-likelihood of held-out documents."""

    max_bytes: int = option(160_000, "text to score, in bytes: whole documents in order until this is reached", gt=0)
    context: int | None = option(None, "tokens the model sees at once; None: all it was built for", gt=1)
    window_context: float = option(
        0.5, "share of each window that is context already scored (0: each window starts afresh)", ge=0.0, lt=1.0
    )
    ngram_bytes: int = option(
        12_000_000, "training text for the n-gram model measured beside gzip and xz; 0: no n-gram model", ge=0
    )


class SyntaxConfig(Config):
    """Share of sampled continuations of held-out Python files that still parse."""

    items: int = option(64, "files continued", gt=0)
    prompt_lines: int = option(12, "lines of the file given as the prompt", gt=0)
    max_tokens: int = option(64, "tokens sampled for each continuation", gt=0)
    temperature: float = option(0.7, "0: greedy", ge=0.0)


class ExpressionsConfig(Config):
    """Instructions answered with one Python expression, graded by running it on hidden inputs."""

    items: int = option(100, "instructions per held-out split (compositions, phrasings)", gt=0, le=500)
    samples: int = option(8, "sampled answers per instruction for pass@8; 0: greedy only", ge=0)
    temperature: float = option(0.8, "of the sampled answers", gt=0.0)
    max_tokens: int = option(48, "longest answer, in tokens", gt=0)
    prompt: Literal["chat", "few-shot"] = option(
        "chat", "chat: the chat template; few-shot: plain text with worked examples, for base models"
    )
    shots: int = option(4, "worked examples of the few-shot prompt", ge=1)


class MemorisationConfig(Config):
    """Prefixes of training passages, to be continued."""

    items: int = option(100, "passages from the training text, and as many held-out ones", gt=0)
    prefix: int = option(200, "characters given", gt=0)
    suffix: int = option(100, "characters that must follow", gt=0)


class CanariesConfig(Config):
    """Planted secrets: see `foundling.evaluation.tasks.canaries`."""

    count: int = option(50, "canaries that were planted, and as many that were not", gt=0)
    alternatives: int = option(127, "other secrets that each is ranked among", gt=0)
    seed: int = option(0, "that they were written with")


class PersonalDataConfig(Config):
    """Addresses and numbers of the training text, asked for by what comes before them."""

    items: int = option(100, "most places asked for", gt=0)
    prefix: int = option(200, "characters given", gt=0)
    max_tokens: int = option(32, "tokens generated", gt=0)
    read_bytes: int = option(50_000_000, "training text searched", gt=0)


class SamplesConfig(Config):
    """Several answers to the same question: pass@k, pass^k, agreement, spread between seeds."""

    count: int = option(0, "answers sampled beside the greedy one, of tasks with generated answers", ge=0)
    temperature: float = option(0.8, "of the samples", gt=0.0)
    k: tuple[int, ...] = option((1, 10), "which pass@k and pass^k to estimate; those above `count` are left out")

    @property
    def ks(self) -> list[int]:
        """The k that this many samples can tell of."""
        return [k for k in self.k if k <= self.count]


class ProgramsConfig(Config):
    """How programs are run (HumanEval, MBPP)."""

    cpu_s: int = option(5, "CPU seconds that one program may use", gt=0)


class EvaluateConfig(Config):
    """The `evaluate` stage."""

    tasks: tuple[str, ...] = option(
        ("bits-per-byte",),
        "tasks: names, or YAML files of your own",
        min_length=1,
    )
    chat: bool = option(False, "put the questions of task files through the chat template")
    shots: int | None = option(None, "worked examples of task files; null: what each file says", ge=0)
    seed: int = option(0, "seeds sampling and resampling")
    limit: int | None = option(None, "use only the first items of each task", gt=0)
    url: str | None = option(
        None, "an OpenAI-compatible URL to ask instead of a model; URL#NAME chooses one of several models there"
    )
    state: str | None = option(
        None, "your own word for the state of the model behind `url`: another word asks everything again"
    )
    dtype: Literal["float32", "bfloat16"] = option("float32", "precision in which the model is run")
    perturb: bool = option(
        False, "ask choices and generated answers again: case, spaces, typos, other words, order of options and shots"
    )
    jailbreak: bool = option(False, "ask refusal tasks again in ways that are known to get round refusals")
    styles: bool = option(False, "ask for short answers, for admitting not to know, and for a source, and compare")
    snowball: bool = option(False, "force wrong answers to multiple-choice tasks and ask whether they are right")
    contamination: bool = option(False, "look for the items in the corpus's training text, and score both parts")
    block: int = option(512, "items asked together; every answer is kept as it comes", gt=0)
    price_per_hour: float | None = option(
        None, "of this machine, for the cost of each task", ge=0, affects_result=False
    )
    price_per_million: tuple[float, float] | None = option(
        None, "of tokens read and of tokens written, for the cost of each task", affects_result=False
    )
    bits_per_byte: BitsPerByteConfig = option(BitsPerByteConfig(), "options of the task `bits-per-byte`")
    syntax: SyntaxConfig = option(SyntaxConfig(), "options of the task `syntax`")
    canaries: CanariesConfig = option(CanariesConfig(), "options of the task `canaries`")
    personal_data: PersonalDataConfig = option(PersonalDataConfig(), "options of the task `personal-data`")
    memorisation: MemorisationConfig = option(MemorisationConfig(), "options of the task `memorisation`")
    samples: SamplesConfig = option(SamplesConfig(), "several answers to the same question")
    programs: ProgramsConfig = option(ProgramsConfig(), "options of tasks that run programs")
    expressions: ExpressionsConfig = option(ExpressionsConfig(), "options of the task `expressions`")

    @field_validator("tasks", mode="before")
    @classmethod
    def _split(cls, tasks: Any) -> Any:
        """`mmlu,gsm8k` names two tasks."""
        given = [tasks] if isinstance(tasks, str) else tasks
        if not isinstance(given, (list, tuple)) or not all(isinstance(name, str) for name in given):
            return tasks
        return tuple(part.strip() for name in given for part in name.split(",") if part.strip())
