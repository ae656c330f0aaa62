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


class ProgramsConfig(Config):
    """How programs are asked for and run (HumanEval, MBPP)."""

    samples: int = option(0, "sampled programs per problem for pass@k; 0: the greedy one only", ge=0)
    temperature: float = option(0.8, "of the sampled programs", gt=0.0)
    k: tuple[int, ...] = option((1, 10), "which pass@k and pass^k to estimate; those above `samples` are left out")
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
    perturb: bool = option(False, "ask multiple-choice tasks again with changed case, spacing, spelling and order")
    contamination: bool = option(False, "look for the items in the corpus's training text, and score both parts")
    block: int = option(64, "items asked and saved together: a broken-off run repeats at most one block", gt=0)
    bits_per_byte: BitsPerByteConfig = option(BitsPerByteConfig(), "options of the task `bits-per-byte`")
    syntax: SyntaxConfig = option(SyntaxConfig(), "options of the task `syntax`")
    memorisation: MemorisationConfig = option(MemorisationConfig(), "options of the task `memorisation`")
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
