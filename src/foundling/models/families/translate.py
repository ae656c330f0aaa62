"""config.json <-> ModelConfig, for every family. No torch: plans and the command line read configs too."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from foundling.core.errors import FoundlingError
from foundling.models.config import ModelConfig
from foundling.models.families import family_for
from foundling.models.families.fields import Fields


def read_config(path: Path | str) -> ModelConfig:
    """The architecture of a model directory.

    Raises:
        FoundlingError: naming the file, the model_type or the field that is missing, unknown or not supported.
    """
    return config_from_hf(read_json(Path(path) / "config.json"), str(Path(path) / "config.json"))


def config_from_hf(data: dict[str, Any], where: str) -> ModelConfig:
    """Translate the content of a config.json; `where` names it in messages."""
    hf = Fields(data, where)
    family = family_for(hf.take("model_type", str))
    classes = {name: head for head, name in _classes(family.ARCHITECTURE).items()}
    hf.head = hf.choice_of_list("architectures", classes, family.ARCHITECTURE)
    hf.skip("quantization_config")  # says how the files hold the weights: `checkpoint` reads it
    try:
        config = family.from_hf(hf)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(str(part) for part in first["loc"])
        raise FoundlingError(f"{where}: {name} would be {first['input']!r}", str(first["msg"])) from None
    hf.finish()
    if config.head.kind != hf.head and hf.head != "main":
        hf.refuse("architectures", family.ARCHITECTURE)
    return config


def config_to_hf(config: ModelConfig) -> dict[str, Any]:
    """The content of config.json for a config, without the dtype."""
    family, head = family_for(config.family), config.head
    name = _classes(family.ARCHITECTURE)[head.kind if head.kind in ("labels", "none") else "main"]
    fields = {"architectures": [name], "model_type": config.family, **family.to_hf(config)}
    if head.kind == "labels":
        fields["id2label"] = {str(i): f"LABEL_{i}" for i in range(head.n_labels)}
        fields["label2id"] = {f"LABEL_{i}": i for i in range(head.n_labels)}
    return fields


def _classes(main: str) -> dict[str, str]:
    """The class names of a family by head: the main one, the classifier and the bare model."""
    stem = re.sub("(ForCausalLM|LMHeadModel|ForMaskedLM|ForConditionalGeneration)$", "", main)
    return {"main": main, "labels": f"{stem}ForSequenceClassification", "none": f"{stem}Model"}


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file, or a FoundlingError that names the file."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FoundlingError(f"{path} does not exist", "a model directory has a config.json") from None
    except NotADirectoryError:
        raise FoundlingError(f"{path.parent} is a file", "a model is a directory with a config.json") from None
    except (ValueError, OSError) as error:
        raise FoundlingError(f"{path} is not readable JSON", str(error)) from None
    if not isinstance(data, dict):
        raise FoundlingError(f"{path} holds {type(data).__name__}", "expected a JSON object")
    return data


def write_json(path: Path, data: dict[str, Any]) -> None:
    """Sorted, indented JSON."""
    path.write_text(json.dumps(data, indent=2, sort_keys=True) + "\n", encoding="utf-8")
