"""GGUF written and read back: names, layouts, precisions and the tokenizer."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from foundling.core.errors import FoundlingError
from foundling.models.build import build
from foundling.models.checkpoint import load_module
from foundling.models.config import AttentionConfig, MLPConfig, ModelConfig, NormConfig, RopeConfig, uniform_blocks
from foundling.models.families.translate import write_json
from foundling.models.gguf_blocks import dequantize, to_q6_k
from foundling.models.gguf_directory import gguf_directory
from foundling.models.gguf_file import load_gguf, save_gguf
from foundling.models.gguf_tokenizer import PRE_TOKENIZERS

TEMPLATE = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
TEXT = [
    "def f(x):\n    return x + 12345",
    "It's an Ünïcode 世界  text,\n\nwith 3.14 numbers!",
    "the then there these",
] * 9


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    return write_tokenizer(tmp_path / "tokenizer", "gpt-2")


def write_tokenizer(directory: Path, pre: str) -> Path:
    directory.mkdir()
    fast = Tokenizer(models.BPE())
    fast.pre_tokenizer = PRE_TOKENIZERS[pre]()
    fast.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    fast.train_from_iterator(
        TEXT, trainers.BpeTrainer(vocab_size=320, special_tokens=special, initial_alphabet=alphabet)
    )
    fast.save(str(directory / "tokenizer.json"))
    settings = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "chat_template": TEMPLATE}
    write_json(directory / "tokenizer_config.json", settings)
    return directory


def model(family: str) -> ModelConfig:
    norm = NormConfig(eps=1e-5)
    mixer = AttentionConfig(n_heads=4, n_kv_heads=2, head_dim=16, rope=RopeConfig(theta=5e5))
    if family == "qwen3":
        mixer = mixer.model_copy(update={"qk_norm": norm, "head_dim": 32})
    if family == "qwen2":
        mixer = mixer.model_copy(update={"qkv_bias": True})
    blocks = uniform_blocks(2, mixer, MLPConfig(hidden=96))
    return ModelConfig(
        family=family, vocab_size=324, dim=64, blocks=blocks, norm=norm, tie_embeddings=family == "qwen3"
    )


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
@pytest.mark.parametrize("precision", ["f32", "f16", "bf16", "q8_0"])
@torch.no_grad()
def test_round_trip(family: str, precision: str, tokenizer: Path, tmp_path: Path) -> None:
    """What comes back is the module with its matrices rounded by the gguf package itself, and nothing else changed."""
    module = build(model(family), seed=0, zero_outputs=False)
    save_gguf(module, tokenizer, tmp_path / "model.gguf", precision)  # type: ignore[arg-type]
    again = load_gguf(tmp_path / "model.gguf")
    ids = torch.arange(40).view(2, 20)
    kind = gguf.GGMLQuantizationType[precision.upper()]
    for weight in module.parameters():
        if weight.dim() == 2:
            rounded = gguf.quants.dequantize(gguf.quants.quantize(weight.numpy(), kind), kind)
            weight.copy_(torch.from_numpy(rounded.astype(np.float32)))
    torch.testing.assert_close(again(ids), module(ids), rtol=1e-5, atol=1e-4)


def test_a_gguf_becomes_a_directory_with_its_tokenizer(
    tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    module = build(model("qwen3"), seed=0)
    save_gguf(module, tokenizer, tmp_path / "model.gguf", "f32")
    directory = gguf_directory(tmp_path / "model.gguf")
    assert gguf_directory(tmp_path / "model.gguf") == directory
    first, again = (Tokenizer.from_file(str(path / "tokenizer.json")) for path in (tokenizer, directory))
    for text in [*TEXT, "<|im_start|>user\nhi<|im_end|>", "\t\tx  y\r\n"]:
        assert first.encode(text).ids == again.encode(text).ids
    for name, tensor in load_module(directory).state_dict().items():
        assert torch.equal(tensor, module.state_dict()[name]), name


@pytest.mark.parametrize("pre", PRE_TOKENIZERS)
def test_pre_tokenizers_survive(pre: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    source = write_tokenizer(tmp_path / "tokenizer", pre)
    save_gguf(build(model("llama"), seed=0), source, tmp_path / "m.gguf", "f16")
    directory = gguf_directory(tmp_path / "m.gguf")
    first, again = (Tokenizer.from_file(str(path / "tokenizer.json")) for path in (source, directory))
    for text in TEXT:
        assert first.encode(text).ids == again.encode(text).ids


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q4_1", "Q4_K", "Q6_K", "F16", "BF16", "F32"])
def test_blocks_equal_the_reference(kind: str) -> None:
    """Our torch forms of the simple blocks against the gguf package's."""
    quant = gguf.GGMLQuantizationType[kind]
    block, size = gguf.GGML_QUANT_SIZES[quant]
    rows, columns = 3, 512
    rng = np.random.default_rng(0)
    if kind in ("Q4_K", "Q6_K"):  # the package cannot write these: finite random bytes are as good
        data = rng.integers(0, 60, (rows, columns // block * size), dtype=np.uint8)
    else:
        data = gguf.quantize(rng.standard_normal((rows, columns)).astype(np.float32), quant)
    expected = gguf.dequantize(data, quant).astype(np.float32)
    raw = torch.from_numpy(np.ascontiguousarray(data).view(np.uint8).reshape(-1).copy())
    np.testing.assert_array_equal(dequantize(raw, quant, (rows, columns)).float().numpy(), expected)


def test_what_gguf_cannot_hold_is_refused(tokenizer: Path, tmp_path: Path) -> None:
    capped = model("llama").model_copy(update={"family": "gemma2"})
    with pytest.raises(FoundlingError, match="gemma2 models cannot be written"):
        save_gguf(build(capped, seed=0), tokenizer, tmp_path / "m.gguf")
    (tmp_path / "bad.gguf").write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(FoundlingError, match=r"bad\.gguf is truncated or not"):
        load_gguf(tmp_path / "bad.gguf")


def test_q6_k_is_read_by_the_package() -> None:
    """Our layout of codes and scales, read by the package, in order, and within what the rounding allows.

    A code is off by a step at most (+32 does not exist). A group's scale is rounded to 1/127 of the largest among 256
    weights, by half of that at most, which the largest code multiplies by 32.
    """
    weight = torch.randn(3, 512, generator=torch.Generator().manual_seed(0))
    kind = gguf.GGMLQuantizationType.Q6_K
    read = torch.from_numpy(gguf.dequantize(to_q6_k(weight).numpy(), kind))
    step = weight.view(3, -1, 16).abs().amax(2, keepdim=True) / 32
    of_scales = (step.view(3, -1, 16, 1).amax(2, keepdim=True) / 127 * 0.5 * 32).expand(3, -1, 16, 1).reshape_as(step)
    assert ((read - weight).view(3, -1, 16).abs() <= (step + of_scales) * 1.001).all()
    assert (read - weight).norm() < 0.02 * weight.norm()
