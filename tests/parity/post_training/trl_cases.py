"""A tiny chat model on disk, preference rows, and the losses and gradients of both sides on one batch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from tokenizers import Tokenizer as Fast
from tokenizers import decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from foundling.models.checkpoint import load_module
from foundling.models.language_model import LanguageModel
from foundling.tokenization.tokenizer import SPECIAL_TOKENS, Tokenizer
from foundling.training.batch import Batch

TEMPLATE = (
    "{%- for m in messages -%}{{ '<|im_start|>' + m['role'] + '\\n' }}"
    "{%- if m['role'] == 'assistant' -%}{% generation %}{{ m['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{%- else -%}{{ m['content'] + '<|im_end|>' }}{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}"
)
ROWS = [
    ("say hello to the sea", "hello sea", "no, I will not"),
    ("add one and two", "three", "five or so"),
    ("what is red", "a colour", "a fish of the deep sea"),
    ("name a fish", "the cod", "red"),
    ("what comes after two", "three", "one, I think"),
    ("say no", "no", "hello hello"),
]


def make_directory(path: Path, dtype: torch.dtype = torch.float32) -> Path:
    """A random two-layer Llama with a byte-level tokenizer and a chat template."""
    fast = Fast(models.BPE())
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.decoder = decoders.ByteLevel()
    texts = [text for row in ROWS for text in row] * 3
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    fast.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=300, special_tokens=list(SPECIAL_TOKENS), initial_alphabet=alphabet)
    )
    names = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "chat_template": TEMPLATE}
    Tokenizer(fast, names).save(path)
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=fast.get_vocab_size(), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256, pad_token_id=0, eos_token_id=2,
        bos_token_id=None, initializer_range=0.1,
    )  # fmt: skip
    LlamaForCausalLM(config).to(dtype).save_pretrained(path)
    return path


def theirs(path: Path) -> tuple[Any, Any]:
    """transformers' model and tokenizer."""
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32), AutoTokenizer.from_pretrained(path)


def ours(path: Path) -> tuple[LanguageModel, Tokenizer]:
    """Our model and tokenizer."""
    return load_module(path), Tokenizer.load(path)


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def assistant(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def preference_dataset() -> Dataset:
    return Dataset.from_list(
        [{"prompt": user(p), "chosen": assistant(c), "rejected": assistant(r)} for p, c, r in ROWS]
    )


def trl_arguments(output: Path, rows: int = len(ROWS)) -> dict[str, Any]:
    """What all of trl's configs need: one batch of everything, in order, on the CPU, without reporting."""
    return {
        "output_dir": str(output), "per_device_train_batch_size": rows, "report_to": "none", "use_cpu": True,
        "bf16": False, "gradient_checkpointing": False, "disable_tqdm": True, "remove_unused_columns": False,
        "save_strategy": "no", "max_steps": 1,
    }  # fmt: skip


def their_loss(trainer: Any) -> tuple[float, Tensor]:
    """trl's loss of its first batch and the gradient of the embedding."""
    trainer.model.train()
    batch = next(iter(trainer.get_train_dataloader()))
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    return float(loss.detach()), trainer.model.get_input_embeddings().weight.grad.clone()


def our_loss(module: LanguageModel, batch: Batch, loss: Callable[[Any, Batch], Any]) -> tuple[float, Tensor]:
    """Our mean loss of a batch and the gradient of the embedding."""
    module.requires_grad_(True).train()
    module.zero_grad(set_to_none=True)
    result = loss(module, batch)
    (result.total / result.count).backward()
    assert module.embedding.weight.grad is not None
    return float(result.total.detach() / result.count), module.embedding.weight.grad.clone()


def assert_same(a: tuple[float, Tensor], b: tuple[float, Tensor], tolerance: float = 1e-5) -> None:
    assert abs(a[0] - b[0]) < tolerance, (a[0], b[0])
    assert float((a[1] - b[1]).abs().max()) < tolerance
