"""lm-evaluation-harness, both ways: its tasks on our models, and our tasks on its models.

    from lm_eval import simple_evaluate
    simple_evaluate(FoundlingLM(foundling.load("quickstart/sft")), tasks=["arc_easy"])

    run_task(task, task.items(), HarnessAnswerer(HFLM(pretrained="gpt2")), ...)

Needs the extra `foundling[lm-eval]`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.models.utils import normalize_gen_kwargs

from foundling.core.errors import FoundlingError
from foundling.evaluation.answering import LocalAnswerer
from foundling.evaluation.requests import (
    Answer,
    Answerer,
    Generate,
    GenerateAnswer,
    Loglikelihood,
    LoglikelihoodAnswer,
    Messages,
    Request,
    Rolling,
    RollingAnswer,
)
from foundling.inference.model import Model
from foundling.tokenization.chat import render

DEFAULT_MAX_TOKENS = 256


class FoundlingLM(LM):
    """One of our models as lm-eval's `LM`: every task of the harness runs on it, through our engine."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model
        self.answerer = LocalAnswerer(model.engine, model.tokenizer, model.module.config.max_positions)

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """(log p, is greedy) of each (context, continuation)."""
        answers = self.answerer.answer([Loglikelihood(*request.args) for request in requests])
        return [(a.logprob, a.is_greedy) for a in answers if isinstance(a, LoglikelihoodAnswer)]

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """log p of each whole text."""
        answers = self.answerer.answer([Rolling(request.args[0]) for request in requests])
        return [answer.logprob for answer in answers if isinstance(answer, RollingAnswer)]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Text up to a stop string. Sampling options other than the temperature are refused, not dropped."""
        answers = self.answerer.answer([_generate(*request.args) for request in requests])
        return [answer.texts[0] for answer in answers if isinstance(answer, GenerateAnswer)]

    @property
    def tokenizer_name(self) -> str:
        """For the harness's request cache."""
        return f"foundling-{self.model.tokenizer.vocab_size}"

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Messages as the text of the model's chat template."""
        rendered = render(self.model.tokenizer, chat_history, add_generation_prompt=add_generation_prompt)
        return rendered.text


class HarnessAnswerer(Answerer):
    """Answers our requests with any `lm_eval` model. They keep no cache between calls."""

    def __init__(self, lm: LM) -> None:
        self.lm = lm

    def answer(self, requests: Sequence[Request]) -> list[Answer]:
        """One answer per request, in order. Token counts are not known here and are 0."""
        answers: dict[int, Answer] = {}
        for kind, ask in (
            (Loglikelihood, self._loglikelihoods),
            (Rolling, self._rolling),
            (Generate, self._generations),
        ):
            chosen = [(i, request) for i, request in enumerate(requests) if isinstance(request, kind)]
            if chosen:
                answers |= zip([i for i, _ in chosen], ask([request for _, request in chosen]), strict=True)
        return [answers[i] for i in range(len(requests))]

    def _loglikelihoods(self, requests: Sequence[Any]) -> list[Answer]:
        pairs = [(self._text(request.context), request.continuation) for request in requests]
        found = self.lm.loglikelihood(_instances("loglikelihood", pairs))
        return [LoglikelihoodAnswer(float(logprob), bool(greedy), 0) for logprob, greedy in found]

    def _rolling(self, requests: Sequence[Any]) -> list[Answer]:
        found = self.lm.loglikelihood_rolling(_instances("loglikelihood_rolling", [(r.text,) for r in requests]))
        return [RollingAnswer(float(logprob), 0) for logprob in found]

    def _generations(self, requests: Sequence[Any]) -> list[Answer]:
        arguments = []
        for request in requests:
            sampling = {"do_sample": request.temperature > 0, "temperature": request.temperature}
            options = {"until": list(request.stop), "max_gen_toks": request.max_tokens, **sampling}
            arguments += [(self._text(request.prompt), options)] * request.n
        texts = iter(self.lm.generate_until(_instances("generate_until", arguments)))
        return [
            GenerateAnswer(
                tuple(next(texts) for _ in range(r.n)), ("stop",) * r.n, 0, 0
            )  # they do not say why it ended
            for r in requests
        ]

    def _text(self, prompt: str | Messages) -> str:
        if isinstance(prompt, str):
            return prompt
        messages = [{"role": role, "content": content} for role, content in prompt]
        return str(self.lm.apply_chat_template(messages))


def _instances(kind: Any, arguments: Sequence[tuple[Any, ...]]) -> list[Instance]:
    return [Instance(kind, {}, given, index) for index, given in enumerate(arguments)]


def _generate(context: str, options: dict[str, Any]) -> Generate:
    known: dict[str, Any] = dict(normalize_gen_kwargs(options, DEFAULT_MAX_TOKENS))
    take: Callable[[str, Any], Any] = known.pop
    stop, length, temperature = take("until", []), take("max_gen_toks", DEFAULT_MAX_TOKENS), take("temperature", 0.0)
    sampled = take("do_sample", False)
    if known:
        raise FoundlingError(f"generation options {sorted(known)} of an lm-eval task are not supported")
    return Generate(context, int(length), tuple(s for s in stop if s), float(temperature) if sampled else 0.0)
