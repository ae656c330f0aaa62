"""Greedy decoding equals transformers' on the same weights: text and log-probabilities."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers

from foundling.inference.engine import Engine, Request, SamplingParams
from foundling.models.checkpoint import load_module

SMALL = {
    "vocab_size": 300, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256, "initializer_range": 0.2,
}  # fmt: skip
FAMILIES = {
    "llama": lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**SMALL)),
    "qwen3": lambda: transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**SMALL, head_dim=16)),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_equals_transformers(family: str, tmp_path: Path) -> None:
    """Guards against any difference between our cached, batched decoding and the reference's one prompt at a time."""
    torch.manual_seed(0)
    reference = FAMILIES[family]().eval()
    reference.save_pretrained(tmp_path)
    engine = Engine(load_module(tmp_path), None, max_batch=7)
    prompts = [torch.randint(0, 300, (length,)).tolist() for length in (1, 2, 5, 15, 16, 17, 40, 64, 100)]
    params = SamplingParams(max_tokens=64, ignore_eos=True)
    for prompt, ours in zip(prompts, engine.generate([Request(prompt, params) for prompt in prompts]), strict=True):
        out = reference.generate(
            torch.tensor([prompt]), max_new_tokens=64, do_sample=False, eos_token_id=None, pad_token_id=0,
            output_logits=True, return_dict_in_generate=True,
        )  # fmt: skip
        theirs = out.sequences[0, len(prompt) :].tolist()
        assert ours.tokens == theirs
        rows = torch.cat(out.logits).log_softmax(-1)
        expected = rows.gather(1, torch.tensor(theirs)[:, None])[:, 0]
        assert ours.logprobs == pytest.approx(expected.tolist(), abs=1e-3)
