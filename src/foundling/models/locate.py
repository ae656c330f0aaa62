"""Where a model that is not in the store is: a hub id becomes a local directory."""

from __future__ import annotations

import re
from pathlib import Path

from foundling.core.errors import FoundlingError

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
FILES = ("*.json", "*.safetensors", "*.jinja", "tokenizer.model", "*.txt")  # never pickle


def locate(spec: str) -> Path:
    """The directory of a hub id such as "HuggingFaceTB/SmolLM2-135M", from the local cache or downloaded.

    Raises:
        FoundlingError: `spec` is no hub id, or the hub has no such model or cannot be reached.
    """
    expected = "expected a directory, life/stage, a key prefix or a hub id (owner/name)"
    if not HUB_ID.fullmatch(spec):
        raise FoundlingError(f"there is no model {spec!r}", expected, "See `foundling list`")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(spec, allow_patterns=list(FILES)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise FoundlingError(f"no model {spec!r} here, and the hub did not give it ({reason})", expected) from None
