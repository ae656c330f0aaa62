"""A model as a user holds it: module, tokenizer and, when first needed, an engine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from foundling.core.artifacts import Store
from foundling.core.errors import FoundlingError
from foundling.core.lives import artifact_of
from foundling.inference.engine import Completion, Engine, Event, Request, SamplingParams
from foundling.inference.remote import RemoteModel, connect, is_url
from foundling.inference.requests import Prompt
from foundling.inference.runner import inference_of
from foundling.inference.speculative import HeadDraft
from foundling.models.checkpoint import load_module, save_module
from foundling.models.draft_head import load_draft_head
from foundling.models.language_model import LanguageModel
from foundling.models.locate import locate
from foundling.models.pooling import read_pooling
from foundling.tokenization.chat import render
from foundling.tokenization.tokenizer import Tokenizer


class Model:
    """A language model with its tokenizer.

    Args:
        engine_options: keyword arguments of the `Engine` that is made when first needed.
    """

    def __init__(self, module: LanguageModel, tokenizer: Tokenizer, **engine_options: Any) -> None:
        self.module, self.tokenizer = module, tokenizer
        self._engine_options = engine_options

    @cached_property
    def engine(self) -> Engine:
        """The engine on this module."""
        return Engine(self.module, self.tokenizer, **self._engine_options)

    def logits(
        self, ids: Tensor | Sequence[Sequence[int]], encoder_ids: Tensor | Sequence[Sequence[int]] | None = None
    ) -> Tensor:
        """Logits (batch, time, vocab) float32 of token ids (batch, time); encoder_ids: what an encoder reads."""
        if self.module.encoder is not None and encoder_ids is None:
            raise FoundlingError(f"a {self.module.config.family} model needs encoder_ids", "its encoder reads them")
        device = next(self.module.parameters()).device
        tokens = torch.as_tensor(ids, dtype=torch.int64, device=device)
        source = None if encoder_ids is None else torch.as_tensor(encoder_ids, dtype=torch.int64, device=device)
        with inference_of(self.module):
            return self.module(tokens, encoder_tokens=source).float()

    def generate(self, prompt: Prompt, **sampling: Any) -> Completion:
        """Continue a text, or answer chat messages. `sampling`: fields of SamplingParams (n > 1: see `generate_n`)."""
        return self.generate_n(prompt, **sampling)[0]

    def generate_n(self, prompt: Prompt, **sampling: Any) -> list[Completion]:
        """All n continuations of one prompt.

        Raises:
            FoundlingError: the prompt is too long, or the model's output is not finite.
        """
        completions = self.engine.generate([self.request(prompt, **sampling)])
        failed = [completion for completion in completions if completion.failed]
        if failed:
            raise FoundlingError(failed[0].message or f"generation ended with {failed[0].finish_reason}")
        return completions

    def stream(self, prompt: Prompt, **sampling: Any) -> Iterator[Event]:
        """The events of one continuation as they come; leaving early cancels it."""
        request_id = self.engine.add(self.request(prompt, **{**sampling, "n": 1}))
        finished = False
        try:
            while not finished:
                for event in self.engine.step():
                    finished |= event.finish_reason is not None
                    yield event
        finally:
            if not finished:
                self.engine.cancel(request_id)
                self.engine.step()

    def score(self, context: str, continuation: str) -> float:
        """log p(continuation | context), natural logarithm."""
        return self.engine.score([self.pair(context, continuation)])[0].logprob

    def pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """What `engine.score` takes for two texts."""
        first, whole = self.tokenizer.encode(context), self.tokenizer.encode(context + continuation)
        # Where the border falls inside a token, the continuation is encoded by itself.
        rest = whole[len(first) :] if whole[: len(first)] == first else self.tokenizer.encode(continuation)
        return first, rest

    def embed(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Vectors (n, dim) of texts: see `Engine.embed`."""
        return self.engine.embed(texts)

    def save(self, path: str | Path) -> None:
        """Write a directory that `transformers` loads."""
        save_module(self.module, path)
        self.tokenizer.save(path)

    def request(self, prompt: Prompt, **sampling: Any) -> Request:
        """The engine's request for a text or for chat messages."""
        params = SamplingParams.of(**sampling)
        if not isinstance(prompt, str):
            ids = render(self.tokenizer, prompt, add_generation_prompt=True).ids
        elif self.module.encoder is not None:
            ids = [*self.tokenizer.encode(prompt), self.tokenizer.eot_id]
        else:
            bos = [] if self.tokenizer.bos_id is None else [self.tokenizer.bos_id]
            ids = bos + self.tokenizer.encode(prompt) or [self.tokenizer.eot_id]
        if self.module.encoder is not None:
            return Request([self.module.config.decoder_start], params, encoder_ids=ids)
        return Request(ids, params)


def load(
    spec: str | Path | None = None,
    store: Store | None = None,
    *,
    dtype: torch.dtype | None = torch.float32,
    device: str | torch.device | None = None,
    **engine_options: Any,
) -> Model:
    """Load a model: a directory, "life/stage", a key prefix or a hub id; None: the newest life's last model.

    Args:
        store: where lives and keys are looked up; None: the default store.
        dtype: precision of the weights; None: the files' own if that is float32 or bfloat16, else float32.
        device: None: CUDA where there is one, else the CPU.
        engine_options: keyword arguments of `Engine`.

    Raises:
        FoundlingError: nothing is found under `spec`, or it is not a model.
    """
    if is_url(spec):
        raise FoundlingError(f"{spec} is a URL", "this needs the model itself: a directory, life/stage, key or hub id")
    artifact = artifact_of(store or Store(), None if spec is None else str(spec))
    path = artifact.path if artifact is not None else locate(str(spec))
    module = load_module(path, dtype=dtype)
    if dtype is None:  # small tensors may be kept in another precision than the matrices
        own = module.embedding.weight.dtype
        module.to(own if own in (torch.float32, torch.bfloat16) else torch.float32)
    tokenizer = Tokenizer.load(path)
    tokenizer.require_fits(module.config.vocab_size, path)
    module.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    engine_options.setdefault("pooling", partial(read_pooling, path))
    head = load_draft_head(path)
    if head is not None:
        engine_options.setdefault("speculate", HeadDraft(head))
    return Model(module, tokenizer, **engine_options)


def load_or_connect(spec: str | Path | None = None, store: Store | None = None) -> Model | RemoteModel:
    """`load`, or `connect` for a URL: for callers that only generate, score texts and embed."""
    return connect(str(spec)) if is_url(spec) else load(spec, store)


def sample_texts(
    module: LanguageModel, tokenizer: Tokenizer, prompts: Sequence[str], max_tokens: int = 64
) -> list[str]:
    """Each prompt with its greedy continuation: how a model sounds while it is being trained."""
    engine = Engine(module, tokenizer)
    params = SamplingParams.of(max_tokens=max_tokens, temperature=0.0)
    done = engine.generate([Request([tokenizer.eot_id, *tokenizer.encode(prompt)], params) for prompt in prompts])
    return [prompt + answer.text for prompt, answer in zip(prompts, done, strict=True)]
