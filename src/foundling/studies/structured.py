"""What makes a model's answers follow a schema, and what each way costs: measured on the user's own schema and prompts.

prompt     ask for the form and take the answer as it stands
repair     the same answers, mended where models typically break them (`inference/structured/repair.py`)
resample   ask again, with other random numbers, until an answer is valid
constrain  allow only tokens that lead to a valid answer
tuned      another model, fine-tuned for it, asked as in `prompt`
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import yaml

from foundling.core.errors import FoundlingError
from foundling.evaluation.statistics import Interval, wilson
from foundling.inference.model import Model
from foundling.inference.remote import RemoteModel
from foundling.inference.requests import Completion
from foundling.inference.structured import formats
from foundling.inference.structured.grammar import Grammar, json_schema
from foundling.inference.structured.repair import repair_json, repair_yaml

AnyModel = Model | RemoteModel
Format = Literal["json", "yaml"]
ASK = "{prompt}\n\nAnswer with {format} only, following this JSON Schema:\n{schema}"
JUDGE = (
    "Request:\n{prompt}\n\nAnswer:\n{answer}\n\n"
    'Is the content of the answer right for the request? Reply with one word: "yes" or "no".'
)
SHOWN = 3  # examples kept of what went wrong


@dataclass
class Way:
    """How one intervention did.

    Args:
        valid: share of the prompts that got a valid answer.
        right: share of the valid answers whose content the judge approves; None without a judge.
        tokens, seconds: spent on one prompt, failed attempts included.
        repaired: how many valid answers had to be mended.
        failures: why answers were not valid, with how often.
    """

    name: str
    valid: Interval
    tokens: float
    seconds: float
    right: Interval | None = None
    repaired: int = 0
    failures: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Study:
    """The question: a schema, prompts, and how to ask."""

    schema: Mapping[str, Any]
    prompts: Sequence[str]
    format: Format = "json"
    max_tokens: int = 256
    temperature: float = 0.7
    attempts: int = 5
    seed: int = 0

    def compare(self, model: AnyModel, tuned: AnyModel | None = None, judge: AnyModel | None = None) -> list[Way]:
        """Every intervention on every prompt.

        Raises:
            FoundlingError: no prompts, or a schema that cannot be used.
        """
        if not self.prompts:
            raise FoundlingError("there are no prompts", "expected at least one")
        grammar = self.grammar()
        check = validator(self.schema)
        ways = [self._once("prompt", model, check, judge, (self._plain, self._repaired))]
        ways.append(self._resampled(model, check, judge))
        ways.append(self._once("constrain", model, check, judge, (self._plain,), grammar))
        if tuned is not None:
            ways.append(self._once("tuned", tuned, check, judge, (self._plain,)))
        return [way for group in ways for way in group]

    def grammar(self) -> Grammar:
        """What holds an answer to the schema."""
        return json_schema(self.schema) if self.format == "json" else formats.yaml(self.schema)

    def _once(
        self,
        name: str,
        model: AnyModel,
        check: Callable[[Any], str],
        judge: AnyModel | None,
        readers: Sequence[Callable[[str], tuple[Any, bool]]],
        grammar: Grammar | None = None,
    ) -> list[Way]:
        """One answer to each prompt, read in one or more ways (the second one is `repair`)."""
        answers, tokens, seconds = self._ask(model, range(len(self.prompts)), 0, grammar)
        return [
            self._judged(way, answers, read, check, judge, tokens, seconds)
            for way, read in zip((name, "repair"), readers)
        ]

    def _resampled(self, model: AnyModel, check: Callable[[Any], str], judge: AnyModel | None) -> list[Way]:
        last: dict[int, Completion] = {}
        open_, tokens, seconds = list(range(len(self.prompts))), 0, 0.0
        for attempt in range(self.attempts):
            answers, more, took = self._ask(model, open_, attempt, None)
            tokens, seconds = tokens + more, seconds + took
            last |= answers
            open_ = [i for i in open_ if self._why(last[i], self._plain, check)]
            if not open_:
                break
        return [self._judged("resample", last, self._plain, check, judge, tokens, seconds)]

    def _ask(
        self, model: AnyModel, indices: Sequence[int], attempt: int, grammar: Grammar | None
    ) -> tuple[dict[int, Completion], int, float]:
        """Answers by prompt, and the tokens and seconds they took together."""
        sampling: dict[str, Any] = {"max_tokens": self.max_tokens, "temperature": self.temperature}
        sampling |= {"grammar": grammar} if grammar is not None else {}
        begin, before = time.perf_counter(), _generated(model)
        seed = self.seed + 1000 * attempt
        requests: list[Any] = [model.request(self._question(model, i), seed=seed + i, **sampling) for i in indices]
        answers = dict(zip(indices, model.engine.generate(requests), strict=True))
        return answers, _generated(model) - before, time.perf_counter() - begin

    def _question(self, model: AnyModel, index: int) -> Any:
        text = ASK.format(prompt=self.prompts[index], format=self.format.upper(), schema=json.dumps(self.schema))
        chat = isinstance(model, RemoteModel) or model.tokenizer.chat_template is not None
        return [{"role": "user", "content": text}] if chat else f"{text}\n\nAnswer:\n"

    def _plain(self, text: str) -> tuple[Any, bool]:
        try:
            return (json.loads(text) if self.format == "json" else yaml.safe_load(text)), False
        except (ValueError, yaml.YAMLError) as error:
            raise _Unreadable(f"not {self.format.upper()}") from error

    def _repaired(self, text: str) -> tuple[Any, bool]:
        found = repair_json(text) if self.format == "json" else repair_yaml(text)
        if not found.ok:
            raise _Unreadable("cannot be repaired")
        return found.value, bool(found.repairs)

    def _why(self, answer: Completion, read: Callable[[str], tuple[Any, bool]], check: Callable[[Any], str]) -> str:
        """Why an answer is not valid; "" if it is."""
        if answer.failed:
            return answer.finish_reason
        try:
            return check(read(answer.text)[0])
        except _Unreadable as error:
            return f"cut off at {self.max_tokens} tokens" if answer.finish_reason == "length" else str(error)

    def _judged(
        self,
        name: str,
        answers: Mapping[int, Completion],
        read: Callable[[str], tuple[Any, bool]],
        check: Callable[[Any], str],
        judge: AnyModel | None,
        tokens: int,
        seconds: float,
    ) -> Way:
        failures: dict[str, int] = {}
        valid: list[int] = []
        for index, answer in answers.items():
            why = self._why(answer, read, check)
            if why:
                failures[why] = failures.get(why, 0) + 1
            else:
                valid.append(index)
        n = len(self.prompts)
        way = Way(name, wilson(len(valid), n), tokens / n, seconds / n, failures=failures)
        way.repaired = sum(read(answers[index].text)[1] for index in valid)
        if judge is not None and valid:
            texts = [JUDGE.format(prompt=self.prompts[i], answer=json.dumps(read(answers[i].text)[0])) for i in valid]
            asked: list[Any] = [judge.request([{"role": "user", "content": text}], max_tokens=5) for text in texts]
            said = [verdict.text.strip().strip('"').lower() for verdict in judge.engine.generate(asked)]
            way.right = wilson(sum(word.startswith("yes") for word in said), len(valid))
        return way


def validator(schema: Mapping[str, Any]) -> Callable[[Any], str]:
    """A function that says why a value is not valid under the schema; "" if it is."""
    try:
        from jsonschema import Draft202012Validator
        from jsonschema.exceptions import SchemaError
    except ImportError:
        raise FoundlingError("checking answers needs the package jsonschema", fix="pip install jsonschema") from None
    try:
        Draft202012Validator.check_schema(dict(schema))
    except SchemaError as error:
        raise FoundlingError("the schema is not a JSON Schema", error.message) from None
    checker = Draft202012Validator(dict(schema))

    def why(value: Any) -> str:
        error = next(checker.iter_errors(value), None)
        if error is None:
            return ""
        return f"violates {error.validator!r}" + (f" at {error.json_path}" if error.path else "")

    return why


class _Unreadable(Exception):
    """An answer in which no value could be read."""


def _generated(model: AnyModel) -> int:
    if isinstance(model, RemoteModel):
        return model.engine.usage.completion_tokens
    stats = model.engine.stats()
    return stats.generated_tokens + stats.forced_tokens
