"""LoRA, rsLoRA, DoRA and prompt tuning against PEFT: forward, gradients, merged weights, the directory both ways."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from foundling.core.errors import FoundlingError
from foundling.models.adapter_config import AdapterConfig
from foundling.models.adapter_files import load_adapter, save_adapter
from foundling.models.adapters import adapter_layers, attach, disabled, merge
from foundling.models.checkpoint import load_module
from foundling.models.quantized import Scheme
from foundling.models.rounding import quantize_module
from foundling.post_training.acting import plain_copy

TOKENS = torch.randint(0, 97, (2, 11), generator=torch.Generator().manual_seed(3))
METHODS: dict[str, dict[str, Any]] = {"lora": {}, "rslora": {"use_rslora": True}, "dora": {"use_dora": True}}


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "biased"])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("base")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=97, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, initializer_range=0.1, attention_bias=request.param, mlp_bias=request.param,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    model.save_pretrained(path)
    return path


def _peft_model(base: Path, method: str) -> Any:
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    config = peft.LoraConfig(
        r=4, lora_alpha=6, target_modules=["q_proj", "v_proj", "down_proj"], task_type="CAUSAL_LM", **METHODS[method]
    )
    made = peft.get_peft_model(model, config)
    torch.manual_seed(5)
    for name, parameter in made.named_parameters():
        if "lora_B" in name or "magnitude" in name:
            parameter.data += 0.1 * torch.randn_like(parameter)
    return made


@pytest.mark.parametrize("method", METHODS)
def test_lora_equals_peft(base: Path, tmp_path: Path, method: str) -> None:
    """Guards scaling, DoRA's frozen norm, biases, the names in the file, and what merging gives."""
    theirs = _peft_model(base, method)
    theirs.save_pretrained(tmp_path / "theirs")
    module = load_module(base)
    config = load_adapter(module, tmp_path / "theirs")
    assert config.method == method
    logits, expected = module(TOKENS), theirs(TOKENS).logits
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
    logits.logsumexp(-1).sum().backward()
    expected.logsumexp(-1).sum().backward()
    gradients = {n: p.grad for n, p in theirs.named_parameters() if p.grad is not None}
    ours = {n: p.grad for n, p in module.named_parameters() if p.grad is not None}
    assert len(ours) == len(gradients)
    for name, layer in adapter_layers(module).items():
        part = ("self_attn." if "mixer" in name else "mlp.") + {"down": "down_proj"}.get(*[name.rpartition(".")[2]] * 2)
        prefix = f"base_model.model.model.layers.{name.split('.')[1]}.{part}"
        for own, their in ((layer.lora_A, "lora_A.default.weight"), (layer.lora_B, "lora_B.default.weight")):
            torch.testing.assert_close(own.grad, gradients[f"{prefix}.{their}"], atol=1e-5, rtol=1e-5)
    merge(module)
    merged = theirs.merge_and_unload()
    torch.testing.assert_close(module(TOKENS), expected, atol=1e-5, rtol=1e-5)
    q = module.blocks[1].mixer.q_proj.weight
    torch.testing.assert_close(q, merged.model.layers[1].self_attn.q_proj.weight, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_peft_loads_what_we_save(base: Path, tmp_path: Path, method: str) -> None:
    """Guards the other way: our directory in PEFT, with the numbers of our own forward pass."""
    module = load_module(base)
    config = AdapterConfig(method=method, rank=4, alpha=6, targets=("all-linear",))
    names = attach(module, config, seed=1)
    assert len(names) == 14 and not any("output" in name for name in names)
    for layer in adapter_layers(module).values():
        torch.nn.init.normal_(layer.lora_B, std=0.1)
    save_adapter(module, config, tmp_path, str(base))
    theirs = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), tmp_path)
    torch.testing.assert_close(module(TOKENS), theirs(TOKENS).logits, atol=1e-5, rtol=1e-5)


def test_prompt_tuning_equals_peft(base: Path, tmp_path: Path) -> None:
    """Guards virtual tokens as ids above the vocabulary, and the directory both ways."""
    module = load_module(base)
    config = AdapterConfig(method="prompt", virtual_tokens=5)
    attach(module, config, seed=1)
    prompt = torch.tensor(module.embedding.virtual_ids).expand(2, -1)
    own = module(torch.cat([prompt, TOKENS], 1))[:, 5:]
    save_adapter(module, config, tmp_path, str(base))
    theirs = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), tmp_path)
    torch.testing.assert_close(own, theirs(TOKENS).logits[:, 5:], atol=1e-5, rtol=1e-5)
    theirs.save_pretrained(tmp_path / "back")
    again = load_module(base)
    load_adapter(again, tmp_path / "back")
    torch.testing.assert_close(again(torch.cat([prompt, TOKENS], 1))[:, 5:], own)
    with pytest.raises(FoundlingError, match="cannot be merged"):
        merge(again)


def test_disabling_gives_the_base_back(base: Path) -> None:
    """Guards the reference model of preference tuning, which is the same module with its adapter off."""
    module = load_module(base)
    before = module(TOKENS)
    attach(module, AdapterConfig(method="dora"), seed=1)
    torch.testing.assert_close(module(TOKENS), before, atol=1e-5, rtol=1e-5)
    for layer in adapter_layers(module).values():
        torch.nn.init.normal_(layer.lora_B)
    with disabled(module):
        torch.testing.assert_close(module(TOKENS), before, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(module(TOKENS), before, atol=0.1)


@pytest.mark.parametrize("kept", ["as-is", "int4", "nf4"])
def test_qlora_trains_beside_quantized_weights(base: Path, kept: Literal["as-is", "int4", "nf4"]) -> None:
    """Guards gradients through 4-bit layers: they reach every adapter and no code; and merging into what they held."""
    module = load_module(base)
    exact = module(TOKENS)
    if kept == "as-is":
        quantize_module(module, Scheme(bits=4, group_size=32))
    attach(module, AdapterConfig(rank=2, base=kept), seed=1)
    assert 1e-3 < float((module(TOKENS) - exact).detach().abs().mean()) < 0.2
    module(TOKENS).logsumexp(-1).sum().backward()
    assert all(layer.lora_B.grad is not None for layer in adapter_layers(module).values())
    assert sorted({n.rpartition(".")[2] for n, p in module.named_parameters() if p.requires_grad}) == [
        "lora_A",
        "lora_B",
    ]
    for layer in adapter_layers(module).values():
        torch.nn.init.normal_(layer.lora_B, std=0.1)
    adapted = module(TOKENS)
    copy = plain_copy(module, "fp32")
    assert not adapter_layers(copy)
    torch.testing.assert_close(copy(TOKENS), adapted.detach(), atol=1e-5, rtol=1e-5)


def test_small_updates_survive_a_merge_in_bfloat16(base: Path) -> None:
    """Guards against rollouts of the base: each update is a quarter of what rounds to the next number of the weight."""
    module = load_module(base)
    for parameter in module.parameters():
        parameter.data = parameter.data.bfloat16().float()
    attach(module, AdapterConfig(rank=1, alpha=1), seed=1)
    name, layer = next(iter(adapter_layers(module).items()))
    with torch.no_grad():
        layer.base.weight.fill_(1.0)
        layer.lora_A.fill_(1.0)
        layer.lora_B.fill_(2.0**-9)
    merged = plain_copy(module, "bf16").get_submodule(name).weight.float()
    up = (merged > 1).float().mean().item()
    assert abs(up - 0.25) < 0.15 and torch.equal(plain_copy(module, "bf16").get_submodule(name).weight.float(), merged)


def test_mistakes_are_named(base: Path, tmp_path: Path) -> None:
    """Guards against adapting nothing in silence."""
    module = load_module(base)
    with pytest.raises(FoundlingError, match="q_prj"):
        attach(module, AdapterConfig(targets=("q_prj",)), seed=0)
    with pytest.raises(FoundlingError, match="adapter_config"):
        load_adapter(module, tmp_path)
