"""Content hashes of the files that compression's configs name: part of an artifact's key. No torch: plans need them."""

from __future__ import annotations

from pathlib import Path

from foundling.compression.config import CompressConfig
from foundling.compression.distill_config import EXPRESSIONS, DistillConfig
from foundling.core.errors import FoundlingError
from foundling.core.files import sha256_file


def of_compress(config: CompressConfig) -> dict[str, str]:
    """The calibration texts."""
    return {f"{number}:{name}": sha256_file(text_file(name)) for number, name in enumerate(config.text)}


def of_distill(config: DistillConfig) -> dict[str, str]:
    """The files of prompts."""
    files = [Path(entry).expanduser() for entry in config.prompts if entry != EXPRESSIONS]
    return {f"{number}:{file.name}": sha256_file(file) for number, file in enumerate(files) if file.is_file()}


def text_file(name: str) -> Path:
    """The file of that name. Raises FoundlingError if there is none."""
    path = Path(name).expanduser()
    if not path.is_file():
        raise FoundlingError(f"text {name!r} is no file", "calibration text is given as files")
    return path
