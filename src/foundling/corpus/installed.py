"""`installed-python`: tens of megabytes of real text that every machine with Foundling already has.

The standard library (sources without tests, and the documentation that ships with the interpreter), then a fixed
list of our own core dependencies, in an order that puts first what reads most like the standard library.
"""

from __future__ import annotations

import importlib
import os
import sysconfig
from collections.abc import Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from types import ModuleType
from typing import Any

STANDARD_LIBRARY = "standard-library"
DOCUMENTATION = "standard-library-docs"
PACKAGES = (
    "typing_extensions",
    "jinja2",
    "rich",
    "cyclopts",
    "click",
    "pydantic",
    "fastapi",
    "starlette",
    "uvicorn",
    "networkx",
    "huggingface_hub",
    "fsspec",
    "tqdm",
    "yaml",
    "psutil",
    "numpy",
    "torch/nn",
    "torch/optim",
    "torch/utils",
    "torch/distributions",
    "polars",
    "pyarrow",
    "scipy",
    "matplotlib",
    "torch/distributed",
    "sympy",
    "torch",
)
_NOT_TEXT_TO_LEARN = {"test", "tests", "testing", "_testing", "idle_test", "site-packages", "dist-packages"}
_NOT_TEXT_TO_LEARN |= {"__pycache__", "_vendor", "vendor", "conformance", "lib2to3", "pydoc_data", "turtledemo"}
# Modules written in C: their documentation is in no source file.
_COMPILED = (
    "builtins", "sys", "math", "cmath", "itertools", "_functools", "_collections", "_operator", "_io", "_datetime",
    "time", "_struct", "array", "zlib", "_socket", "_thread", "_sre", "_random", "_bisect", "_heapq", "_json", "_csv",
    "binascii", "posix", "gc", "marshal", "unicodedata", "_decimal", "select", "mmap", "_weakref", "atexit", "signal",
)  # fmt: skip


def files(max_bytes: int | None = None) -> list[tuple[Path, str, str]]:
    """(path, source, name) of every source file, in order; at most `max_bytes` in all.

    Sources are "standard-library" and "package:NAME"; names are relative, with forward slashes.
    """
    found: list[tuple[Path, str, str]] = []
    total = 0
    for path, source, name in _all_files():
        total += path.stat().st_size
        if max_bytes is not None and total > max_bytes:
            break
        found.append((path, source, name))
    return found


def documentation() -> Iterator[tuple[str, str]]:
    """(name, text): the language reference's topics, and the docstrings of modules written in C."""
    from pydoc_data.topics import topics

    for name in sorted(topics):
        yield f"topic:{name}", topics[name].strip() + "\n"
    for name in _COMPILED:
        try:
            module = importlib.import_module(name)
        except ImportError:  # `posix` on Windows and the like
            continue
        yield f"module:{name}", _describe_module(module)


@cache  # a recipe may name it often, and a plan must answer at once
def _all_files() -> tuple[tuple[Path, str, str], ...]:
    return tuple(_found())


def _found() -> Iterator[tuple[Path, str, str]]:
    library = Path(sysconfig.get_path("stdlib"))
    yield from ((path, STANDARD_LIBRARY, name) for path, name in _sources(library, library))
    seen: set[Path] = set()
    for entry in PACKAGES:
        for root in (Path(sysconfig.get_path(kind)) for kind in ("purelib", "platlib")):
            single = root / f"{entry}.py"
            found = [(single, single.name)] if single.is_file() else _sources(root / entry, root)
            for path, name in found:
                if path not in seen:
                    seen.add(path)
                    yield path, f"package:{entry.split('/')[0]}", name


def _sources(folder: Path, root: Path) -> list[tuple[Path, str]]:
    if not folder.is_dir():
        return []
    named = []
    for directory, inner, names in os.walk(folder):
        inner[:] = [name for name in inner if name not in _NOT_TEXT_TO_LEARN]
        here = Path(directory)
        prefix = f"{here.relative_to(root).as_posix()}/" if here != root else ""
        named += [(f"{prefix}{name}", here / name) for name in names if name.endswith(".py")]
    return [(path, name) for name, path in sorted(named) if not _is_test(name) and path.is_file()]


def _is_test(name: str) -> bool:
    *folders, file = name.split("/")
    stem = file.removesuffix(".py")
    is_test_file = stem.startswith("test_") or stem.endswith(("_test", "_tests")) or stem == "conftest"
    return is_test_file or not _NOT_TEXT_TO_LEARN.isdisjoint(folders)


def package_facts(source: str) -> dict[str, str]:
    """The installed version and the licence behind a source name, as far as the package says them."""
    if source in (STANDARD_LIBRARY, DOCUMENTATION):
        return {"version": sysconfig.get_python_version(), "license": "PSF-2.0"}
    try:
        about = metadata(source.removeprefix("package:").replace("yaml", "pyyaml"))
    except PackageNotFoundError:
        return {}
    named = [c.rpartition(" :: ")[2] for c in about.get_all("Classifier") or () if c.startswith("License :: ")]
    expression, own = ((about.get_all(name) or [""])[0].strip() for name in ("License-Expression", "License"))
    licence = expression or ", ".join(named) or (own if "\n" not in own else "")
    return {"version": about["Version"], "license": licence} if licence else {"version": about["Version"]}


def _describe_module(module: ModuleType) -> str:
    parts = [f"module {module.__name__.lstrip('_')}\n\n{module.__doc__ or ''}"]
    for name in sorted(vars(module)):
        if not name.startswith("_"):
            parts.extend(_describe(name, vars(module)[name]))
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _describe(name: str, value: Any) -> Iterator[str]:
    """Headings and docstrings of a function, or of a class and its methods. Only text that no run can change."""
    if not isinstance(value.__doc__, str) or not callable(value):
        return
    kind = "class " if isinstance(value, type) else ""
    yield f"{kind}{name}{_signature(value)}\n{_indent(value.__doc__)}"
    if isinstance(value, type):
        for member in sorted(vars(value)):
            item = vars(value)[member]
            if not member.startswith("_") and isinstance(getattr(item, "__doc__", None), str):
                yield _indent(f"{member}{_signature(item)}\n{_indent(item.__doc__)}")


def _signature(value: Any) -> str:
    text = getattr(value, "__text_signature__", None)
    return text.replace("$", "") if isinstance(text, str) else "(...)"


def _indent(text: str) -> str:
    return "\n".join(f"    {line}" if line else "" for line in text.strip().split("\n"))
