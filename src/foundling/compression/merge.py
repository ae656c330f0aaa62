"""The stage `merge`: one model of several that were fine-tuned from the same base."""

from __future__ import annotations

import torch
from torch import Tensor

from foundling.compression.compress import copy_files
from foundling.compression.merge_config import MergeConfig
from foundling.core.artifacts import Artifact, Draft
from foundling.core.errors import FoundlingError
from foundling.core.stages import Inputs
from foundling.models.checkpoint import load_module, save_module
from foundling.models.language_model import LanguageModel


def build(config: MergeConfig, inputs: Inputs, draft: Draft) -> None:
    """Merge and write the model; tokenizer and card are the first one's.

    Raises:
        FoundlingError: fewer than two models, other shapes, a base missing or superfluous, weights that do not fit.
    """
    base = inputs.get("base")
    given = [artifact for port, artifact in inputs.items() if port != "base"]
    if (base is None) == (config.method == "arithmetic"):
        raise FoundlingError(
            f"method {config.method!r} {'needs' if base is None else 'takes no'} base",
            "arithmetic adds what each model changed in it; average does without",
        )
    if len(given) < (1 if base else 2):
        raise FoundlingError("there is nothing to merge", f"{len(given)} model was given")
    weights = config.weights or (1.0 if base else 1 / len(given),) * len(given)
    if len(weights) != len(given):
        raise FoundlingError(f"{len(weights)} weights were given for {len(given)} models", "one is needed for each")
    merged = load_module((base or given[0]).path)
    sums = _summed(merged, given, weights, base)
    merged.load_state_dict({name: value.to(merged.state_dict()[name].dtype) for name, value in sums.items()})
    save_module(merged, draft.path)
    copy_files(given[0].path, draft.path, merged.config.dim)
    parts = " + ".join(f"{weight:.3g} x {one.key}" for weight, one in zip(weights, given, strict=True))
    text = f"# Merged model\n\n{config.method}: {parts}{f' on the base {base.key}' if base else ''}.\n"
    draft.file("README.md").write_text(text, encoding="utf-8")
    draft.metrics |= {"parameters": merged.config.n_parameters(), "models": len(given)}


def _summed(
    shape: LanguageModel, given: list[Artifact], weights: tuple[float, ...], base: Artifact | None
) -> dict[str, Tensor]:
    """Wortsman et al. 2022, Model soups, arXiv:2203.05482; Ilharco et al. 2022, Task arithmetic, arXiv:2212.04089."""
    start = {name: value.double() for name, value in shape.state_dict().items()}
    sums = {name: value.clone() if base else torch.zeros_like(value) for name, value in start.items()}
    for artifact, weight in zip(given, weights, strict=True):
        state = load_module(artifact.path).state_dict()
        wrong = [name for name in start if name not in state or state[name].shape != start[name].shape]
        if wrong or len(state) != len(start):
            raise FoundlingError(
                f"model {artifact.key} has another shape",
                f"its {(wrong or sorted(set(state) - set(start)))[0]} differs",
            )
        for name, value in state.items():
            sums[name] += weight * (value.double() - start[name] if base else value.double())
    return sums
