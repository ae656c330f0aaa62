"""Where a model that is not in the store is: a hub id, a GGUF file or a packaged model becomes a local directory."""

from __future__ import annotations

import re
from pathlib import Path

from foundling.core.errors import FoundlingError
from foundling.models.gguf_directory import gguf_directory
from foundling.models.packaged import PACKAGED, find_packaged

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
DRAFT_HEAD = "draft_head.safetensors"  # beside the weights of the model that it belongs to (draft_head.py)
FILES = ("*.json", "*.safetensors", "*.jinja", "tokenizer.model", "*.txt")  # never pickle


def locate(spec: str) -> Path:
    """The directory of a hub id ("HuggingFaceTB/SmolLM2-135M", cached or downloaded), a GGUF file or a packaged model.

    Raises:
        FoundlingError: `spec` is none of these, its package is not installed, or the hub does not give it.
    """
    if spec.lower() in PACKAGED:
        found = find_packaged(spec.lower())
        return gguf_directory(found) if found.suffix == ".gguf" else found
    if spec.endswith(".gguf") and Path(spec).is_file():
        return gguf_directory(spec)
    expected = f"expected a directory, a .gguf file, life/stage, a key prefix, {', '.join(PACKAGED)} or a hub id"
    if not HUB_ID.fullmatch(spec):
        raise FoundlingError(f"there is no model {spec!r}", expected, "See `foundling list`")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(spec, allow_patterns=list(FILES)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise FoundlingError(f"no model {spec!r} here, and the hub did not give it ({reason})", expected) from None
