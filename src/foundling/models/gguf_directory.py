"""A model directory for a GGUF file. No torch once it is made: plans name such models too."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from foundling.core.errors import FoundlingError
from foundling.core.rng import seed_for

GGUF_LINK = "model.gguf"  # a directory may hold its weights as GGUF instead


def gguf_directory(path: Path | str) -> Path:
    """A model directory for a GGUF file: config.json and the tokenizer rebuilt, the file itself by a link.

    It is made once, in the user's cache, and costs a few megabytes.

    Raises:
        FoundlingError: there is no such file, or it is damaged.
    """
    target = Path(path).resolve()
    if not target.is_file():
        raise FoundlingError(f"{path} does not exist")
    stat = target.stat()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    directory = cache / "foundling" / "gguf" / f"{target.stem}-{seed_for(target, stat.st_size, stat.st_mtime_ns):x}"
    if not (directory / GGUF_LINK).exists():
        _make(Path(path), directory)
    return directory


def _make(path: Path, directory: Path) -> None:
    from foundling.models.families.translate import config_to_hf, write_json
    from foundling.models.gguf_file import GGUFFile
    from foundling.models.gguf_tokenizer import tokenizer_from_gguf

    file = GGUFFile(path)
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent) as scratch:
        made = Path(scratch) / "model"
        tokenizer_from_gguf(file.field, str(path), made)
        write_json(made / "config.json", config_to_hf(file.config()))
        (made / GGUF_LINK).symlink_to(path.resolve())
        with contextlib.suppress(FileExistsError, OSError):  # another process may have been faster
            made.rename(directory)
