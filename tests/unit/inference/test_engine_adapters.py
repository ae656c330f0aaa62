"""Several adapters in one batch: each request gets what its adapter alone, merged into the weights, would give."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from foundling.core.errors import FoundlingError
from foundling.inference.engine import Engine, Request, SamplingParams
from foundling.models.adapter_bank import twin
from foundling.models.adapter_config import AdapterConfig
from foundling.models.adapter_files import load_adapter, save_adapter
from foundling.models.adapters import adapter_layers, attach, merge
from foundling.models.language_model import LanguageModel

PARAMS = SamplingParams(max_tokens=10, ignore_eos=True)
PROMPTS = [[5, 6, 7], list(range(40)), [9] * 17]
CONFIGS = {
    "lora": AdapterConfig(rank=2, targets=("q_proj", "down_proj")),
    "rslora": AdapterConfig(method="rslora", rank=5),
    "dora": AdapterConfig(method="dora", rank=3, targets=("v_proj", "gate_proj")),
}


def write_adapter(module: LanguageModel, config: AdapterConfig, path: Path, seed: int) -> Path:
    changed = twin(module)
    attach(changed, config, seed)
    generator = torch.Generator().manual_seed(seed)
    for layer in adapter_layers(changed).values():
        layer.lora_B.data.normal_(0, 0.3, generator=generator)
        if layer.magnitude is not None:
            layer.magnitude.data.mul_(1.3)
    save_adapter(changed, config, path, "base")
    return path


def merged(module: LanguageModel, path: Path) -> LanguageModel:
    changed = twin(module)
    load_adapter(changed, path)
    merge(changed)
    return changed


@pytest.fixture(scope="module")
def adapters(exact: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("adapters")
    return {name: write_adapter(exact, config, folder / name, 3) for name, config in CONFIGS.items()}


def answers(engine: Engine, adapter: str | None) -> list[list[int]]:
    return [done.tokens for done in engine.generate([Request(p, PARAMS, adapter=adapter) for p in PROMPTS])]


@pytest.fixture(scope="module")
def expected(exact: LanguageModel, adapters: dict[str, Path]) -> dict[str | None, list[list[int]]]:
    models = {None: exact, **{name: merged(exact, path) for name, path in adapters.items()}}
    found = {name: answers(Engine(model, None), None) for name, model in models.items()}
    assert len({str(tokens) for tokens in found.values()}) == 4, "the adapters change nothing"
    return found


def test_a_mixed_batch_equals_each_adapter_merged(
    exact: LanguageModel, adapters: dict[str, Path], expected: dict[str | None, list[list[int]]]
) -> None:
    """Equal prompts under different adapters stand side by side: guards against keys and values being shared."""
    engine = Engine(exact, None, max_batch=8, max_chunk=16)
    for name, path in adapters.items():
        engine.load_adapter(name, path)
    asked = [Request(prompt, PARAMS, adapter=name) for prompt in PROMPTS for name in expected]
    for _ in range(2):  # the second time from the prefix cache
        done = iter(engine.generate(asked))
        found = [{name: next(done).tokens for name in expected} for _ in PROMPTS]
        assert {name: [row[name] for row in found] for name in expected} == expected
    assert answers(engine, "lora") == expected["lora"]  # alone


def test_scores_are_the_merged_models(exact: LanguageModel, adapters: dict[str, Path]) -> None:
    engine = Engine(exact, None)
    engine.load_adapter("dora", adapters["dora"])
    pairs = [([1, 2, 3], [4, 5]), (list(range(50)), [7])]
    for own, reference in zip(
        engine.score(pairs, adapter="dora"), Engine(merged(exact, adapters["dora"]), None).score(pairs), strict=True
    ):
        assert own.tokens_logprobs == pytest.approx(reference.tokens_logprobs, abs=1e-5)  # merged in single precision


def test_adapters_come_and_go(
    exact: LanguageModel, adapters: dict[str, Path], expected: dict[str | None, list[list[int]]]
) -> None:
    """Another adapter under an old name must not find the old one's keys and values."""
    engine = Engine(exact, None)
    engine.load_adapter("skin", adapters["lora"])
    assert engine.adapters == ["skin"] and answers(engine, "skin") == expected["lora"]
    with pytest.raises(FoundlingError, match="loaded already"):
        engine.load_adapter("skin", adapters["dora"])
    engine.add(Request([1, 2], PARAMS, id="mine", adapter="skin"))
    with pytest.raises(FoundlingError, match="in use by 1"):
        engine.unload_adapter("skin")
    engine.cancel("mine")
    engine.step()
    engine.unload_adapter("skin")
    engine.load_adapter("skin", adapters["rslora"])
    assert answers(engine, "skin") == expected["rslora"] and answers(engine, None) == expected[None]
    with pytest.raises(FoundlingError, match="Did you mean 'skin'"):
        engine.generate([Request([1], PARAMS, adapter="skim")])


def test_the_base_is_left_alone_and_followed(exact: LanguageModel, adapters: dict[str, Path]) -> None:
    """The engine runs beside training: names and gradients of the module stay, new weights reach adapted rows."""
    module = copy.deepcopy(exact).requires_grad_(True)
    names = list(module.state_dict())
    engine = Engine(module, None)
    engine.load_adapter("dora", adapters["dora"])
    before = answers(engine, "dora")
    assert list(module.state_dict()) == names and all(p.requires_grad for p in module.parameters())
    with torch.no_grad():
        module.blocks[0].mixer.v_proj.weight.mul_(-1)
    engine.weights_changed()
    after = answers(engine, "dora")
    assert after != before and after == answers(Engine(merged(module, adapters["dora"]), None), None)


def test_native_rows_beside_adapted_ones(module: LanguageModel, tmp_path: Path) -> None:
    """In single precision the base's rows go through the kernels and the others do not: logprobs within rounding."""
    path = write_adapter(module, CONFIGS["lora"], tmp_path / "lora", 3)
    engine = Engine(module, None)
    engine.load_adapter("lora", path)
    asked = [Request(prompt, PARAMS, adapter=name) for prompt in PROMPTS for name in (None, "lora")]
    references = {None: Engine(module, None), "lora": Engine(merged(module, path), None)}
    for request, done in zip(asked, engine.generate(asked), strict=True):
        alone = references[request.adapter].generate([Request(request.prompt_ids, PARAMS)])[0]
        assert done.logprobs[:3] == pytest.approx(alone.logprobs[:3], abs=1e-3)


def test_what_cannot_be_adapted_row_by_row_is_refused(exact: LanguageModel, tmp_path: Path) -> None:
    config = AdapterConfig(method="prompt", virtual_tokens=2)
    changed = twin(exact)
    attach(changed, config, 0)
    save_adapter(changed, config, tmp_path, "base")
    with pytest.raises(FoundlingError, match="learned prompt"):
        Engine(exact, None).load_adapter("p", tmp_path)
