"""The stage `extend`: a model with further tokens for a domain or a language, ready to be trained on."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from foundling.core.artifacts import Draft
from foundling.core.errors import FoundlingError
from foundling.core.files import write_json
from foundling.core.rng import numpy_rng
from foundling.core.stages import Inputs
from foundling.models.checkpoint import load_module, save_module
from foundling.models.language_model import LanguageModel
from foundling.tokenization.config import ExtendConfig, Initialise
from foundling.tokenization.surgery import extend, initial_rows
from foundling.tokenization.tokenizer import Tokenizer
from foundling.tokenization.train import held_texts, measure, sample


def build(config: ExtendConfig, inputs: Inputs, draft: Draft) -> None:
    """Write the model and its tokenizer, and what the new tokens save on the corpus's texts.

    Raises:
        FoundlingError: the text gives no new tokens, or the model's vocabulary cannot grow.
    """
    corpus, path = inputs["corpus"], inputs["model"].path
    tokenizer, module = Tokenizer.load(path), load_module(path)
    larger, made_of = extend(tokenizer, sample(corpus.file("train.parquet"), config.sample_bytes), config.tokens)
    if not made_of:
        raise FoundlingError("the text gives no new tokens", "no pair of tokens occurs twice in it", "Use more text")
    grow(module, larger.vocab_size, tokenizer.vocab_size, made_of, config.initialise, config.seed)
    save_module(module, draft.path)
    larger.save(draft.path)
    report = {
        split: {"before": measure(tokenizer, texts), "after": measure(larger, texts)}
        for split, texts in held_texts(corpus).items()
    }
    write_json(draft.path / "extension.json", {"new_tokens": len(made_of), **report})
    draft.metrics |= {"new_tokens": len(made_of), "vocab_size": larger.vocab_size}
    for split, both in report.items():
        draft.metrics |= {f"{split}_bytes_per_token_{when}": m["bytes_per_token"] for when, m in both.items()}


def grow(
    module: LanguageModel, size: int, first: int, made_of: list[list[int]], initialise: Initialise, seed: int
) -> None:
    """Give the model a vocabulary of `size`; the rows from `first` on are those of the new tokens.

    Args:
        made_of: for each new token, the old ids that it stands for; drawn at random, it may stand for none.

    Raises:
        FoundlingError: a quantized output layer.
    """
    size = max(size, module.config.vocab_size)  # published models have rows to spare
    with torch.no_grad():
        grown = partial(_grown, size=size, first=first, made_of=made_of, initialise=initialise, seed=seed)
        rows = grown(module.embedding.weight, name="embedding")
        module.embedding = nn.Embedding.from_pretrained(rows, freeze=False)
        if module.output is not None:
            if type(module.output) is not nn.Linear:
                raise FoundlingError("the model's output layer is quantized", "its vocabulary cannot grow")
            module.output.weight = nn.Parameter(grown(module.output.weight, name="output"))
            module.output.out_features = size
        biases = [part for part in (module.output, module.output_bias) if part is not None and part.bias is not None]
        for part in biases:
            bias = part.bias
            assert isinstance(bias, Tensor)
            part.bias = nn.Parameter(torch.cat([bias, bias.new_zeros(size - len(bias))]))
    module.config = module.config.model_copy(update={"vocab_size": size})


def _grown(
    weight: Tensor, *, size: int, first: int, made_of: list[list[int]], initialise: Initialise, seed: int, name: str
) -> Tensor:
    """(size, dim) the old rows, then the new ones."""
    old = weight.float().numpy()
    grown = np.zeros((size, old.shape[1]), np.float32)
    grown[: len(old)] = old
    drawn = numpy_rng(seed, "extend", name).normal(0.0, old.std(), (len(made_of), old.shape[1]))
    grown[first : first + len(made_of)] = drawn if initialise == "random" else initial_rows(old, made_of)
    return torch.from_numpy(grown).to(weight.dtype)
