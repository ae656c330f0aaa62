"""What a result was made with: versions and machine, without names of hosts or people."""

from __future__ import annotations

import os
import platform
from functools import cache
from importlib import metadata

PACKAGES = ("foundling", "torch", "tokenizers", "safetensors", "numpy", "pyarrow", "polars", "pydantic")


@cache
def environment() -> dict[str, str | int]:
    """Versions of Python and of the packages that matter, the operating system and the processor count."""
    versions: dict[str, str | int] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    versions |= {"system": f"{platform.system()} {platform.machine()}", "processors": os.cpu_count() or 1}
    return versions
