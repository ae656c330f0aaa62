"""Foundling: raise a foundation model, from raw text to a served, measured release."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from foundling.inference.model import Model, load

__version__ = "0.1.0"
__all__ = ["Model", "__version__", "load"]


def __getattr__(name: str) -> object:
    """Import `load` and `Model` on first use, so that `import foundling` does not import torch."""
    if name in {"Model", "load"}:
        from foundling.inference import model

        return getattr(model, name)
    raise AttributeError(f"module 'foundling' has no attribute {name!r}")
