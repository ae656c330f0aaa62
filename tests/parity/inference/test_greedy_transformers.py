"""Greedy decoding equals transformers' on the same weights: tokens and log-probabilities, for every decoder family."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.parity.mixers.test_recurrent_families_parity import CASES as RECURRENT
from tests.parity.models.test_decoder_parity import CASES
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from foundling.core.errors import FoundlingError
from foundling.inference.engine import Engine, Request, SamplingParams
from foundling.models.checkpoint import load_module
from foundling.models.locate import locate

PLAIN = [name for name in CASES if "-" not in name]
STATEFUL = [name for name in RECURRENT if "-" not in name]
LENGTHS = (1, 2, 15, 16, 17, 40, 64, 3, 31, 32, 33, 5, 9, 20, 50, 70, 8, 12, 25, 60)
SENTENCES = (
    "The capital of France is", "Once upon a time", "def fibonacci(n):", "Water boils at", "import numpy as np\n",
    "The largest planet in the solar system", "In 1969, humans first", "A good breakfast consists of", "1, 2, 3, 4,",
    "The opposite of hot is", "Dear Sir or Madam,", "SELECT name FROM", "To be or not to be", "The mitochondria is",
    "Q: What is 2+2?\nA:", "Roses are red,", "<html><body>", "My favourite colour is", "She said that", "Zürich liegt",
)  # fmt: skip


def same_greedy_tokens(reference: Any, engine: Engine, prompts: list[list[int]], new: int) -> None:
    params = SamplingParams(max_tokens=new, ignore_eos=True)
    for prompt, ours in zip(prompts, engine.generate([Request(prompt, params) for prompt in prompts]), strict=True):
        out = reference.generate(
            torch.tensor([prompt]), max_new_tokens=new, do_sample=False, eos_token_id=None, pad_token_id=0,
            output_logits=True, return_dict_in_generate=True,
        )  # fmt: skip
        theirs = out.sequences[0, len(prompt) :].tolist()
        assert ours.tokens == theirs
        rows = torch.cat(out.logits).log_softmax(-1)
        expected = rows.gather(1, torch.tensor(theirs)[:, None])[:, 0]
        assert ours.logprobs == pytest.approx(expected.tolist(), abs=1e-3)


def family(name: str, path: Path, count: int, new: int) -> None:
    """Random weights large enough that the next token depends on the whole past."""
    if name in RECURRENT:
        config = RECURRENT[name]
    else:
        model_type, fields = CASES[name]
        longer = "n_positions" if model_type == "gpt2" else "max_position_embeddings"
        config = AutoConfig.for_model(model_type, **(fields | {longer: 256}))
    torch.manual_seed(0)
    reference = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    reference.save_pretrained(path)
    prompts = [torch.randint(3, 97, (length,)).tolist() for length in LENGTHS[:count]]
    same_greedy_tokens(reference, Engine(load_module(path), None, max_batch=7), prompts, new)


@pytest.mark.parametrize("name", [*PLAIN, *STATEFUL])
def test_a_few_prompts(name: str, tmp_path: Path) -> None:
    """Guards against any difference between our cached, batched decoding and the reference's one prompt at a time."""
    family(name, tmp_path, 5, 8)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*PLAIN, *STATEFUL])
def test_twenty_prompts(name: str, tmp_path: Path) -> None:
    family(name, tmp_path, 20, 128)


@pytest.mark.slow
def test_smollm2_says_the_same(tmp_path: Path) -> None:
    """Published weights, twenty prompts of 128 tokens."""
    try:
        directory = locate("smollm2-135m-instruct")
    except FoundlingError as missing:
        pytest.skip(str(missing))
    reference = AutoModelForCausalLM.from_pretrained(directory, gguf_file="model.gguf", dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(directory)
    prompts = [tokenizer(text).input_ids for text in SENTENCES]
    same_greedy_tokens(reference, Engine(load_module(directory), None, max_batch=7), prompts, 128)
