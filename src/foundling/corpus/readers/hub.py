"""Hugging Face datasets: a local copy, or a dataset of the hub, downloaded once and then read like other files.

hf:OWNER/NAME                          the train split of the default configuration
hf:OWNER/NAME?split=validation         another split
hf:OWNER/NAME?config=en&revision=v1.0  another configuration, another version
hf:path/to/folder                      a clone of a dataset's repository, or what `save_to_disk` wrote
"""

from __future__ import annotations

import fnmatch
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import yaml

from foundling.core.errors import FoundlingError, nearest

PREFIX = "hf:"
_OPTIONS = ("config", "split", "revision")
_ENDINGS = (".parquet", ".jsonl", ".json", ".csv", ".tsv", ".arrow", ".txt")
_PATTERNS = [f"*{ending}{packed}" for ending in _ENDINGS for packed in ("", ".gz", ".zst")]
_NOT_DATA = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"}


def files(entry: str) -> list[tuple[Path, str]]:
    """(path, name) of the data files of one split.

    Raises:
        FoundlingError: no such dataset, configuration or split, or an option that is none.
    """
    where, _, query = entry.removeprefix(PREFIX).partition("?")
    options = dict(parse_qsl(query))
    for name in options:
        if name not in _OPTIONS:
            raise FoundlingError(f"{entry}: there is no option {name!r}", "", nearest(name, _OPTIONS))
    folder = Path(where).expanduser()
    root = folder if folder.is_dir() else _download(where, options.get("revision"), entry)
    split = options.get("split", "train")
    found = _saved(root, split) if _is_saved(root) else _of_repository(root, options.get("config"), split, entry)
    if not found:
        splits = sorted({named for path in _data_files(root) if (named := _split_of(path, root))})
        raise FoundlingError(f"{entry} has no split {split!r}", f"its files name: {', '.join(splits) or 'none'}")
    return [(path, path.relative_to(root).as_posix()) for path in sorted(found)]


def _download(name: str, revision: str | None, entry: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    patterns = ["README.md", *_PATTERNS]
    try:
        return Path(snapshot_download(name, repo_type="dataset", revision=revision, allow_patterns=patterns))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise FoundlingError(f"{entry}: no such folder, and the hub did not give the dataset", reason) from None


def _is_saved(root: Path) -> bool:
    """Whether `datasets.save_to_disk` wrote the folder."""
    return (root / "state.json").is_file() or (root / "dataset_dict.json").is_file()


def _saved(root: Path, split: str) -> list[Path]:
    folder = root / split if (root / "dataset_dict.json").is_file() else root
    state = folder / "state.json"
    if not state.is_file():
        return []
    listed: list[dict[str, str]] = json.loads(state.read_text(encoding="utf-8"))["_data_files"]
    return [folder / file["filename"] for file in listed]


def _of_repository(root: Path, config: str | None, split: str, entry: str) -> list[Path]:
    """The files that the dataset's card names for the split, or, as the hub does, those whose path names it."""
    every = _data_files(root)
    configs = _card(root).get("configs") or []
    if configs or config:
        patterns = _patterns(configs, config, split, entry)
        names = {path: path.relative_to(root).as_posix() for path in every}
        return [path for path in every if any(fnmatch.fnmatch(names[path], pattern) for pattern in patterns)]
    named = [path for path in every if _split_of(path, root) == split]
    return named or ([path for path in every if _split_of(path, root) is None] if split == "train" else [])


def _patterns(configs: Sequence[dict[str, Any]], config: str | None, split: str, entry: str) -> list[str]:
    names = [str(item["config_name"]) for item in configs]
    chosen = next((i for i in configs if i.get("default") or str(i["config_name"]) == "default"), None)
    wanted = config or str((chosen or configs[0])["config_name"])
    if wanted not in names:
        what = f"{entry}: there is no configuration {wanted!r}"
        raise FoundlingError(what, f"there are: {', '.join(names) or 'none'}", nearest(wanted, names))
    data = configs[names.index(wanted)].get("data_files", [])
    listed = data if isinstance(data, list) else [data]
    patterns: list[str] = []
    for item in listed:
        if isinstance(item, str):
            patterns += [item] if split == "train" else []
        elif item["split"] == split:
            patterns += item["path"] if isinstance(item["path"], list) else [item["path"]]
    return patterns


def _data_files(root: Path) -> list[Path]:
    inside = [path for path in sorted(root.rglob("*")) if path.is_file() and path.name not in _NOT_DATA]
    inside = [path for path in inside if not any(part.startswith(".") for part in path.relative_to(root).parts)]
    return [path for path in inside if any(fnmatch.fnmatch(path.name, pattern) for pattern in _PATTERNS)]


def _split_of(path: Path, root: Path) -> str | None:
    """The split that a file's path names, as the hub reads it: "train" in "data/train-00000-of-00002.parquet"."""
    words = re.split(r"[^a-z]+", path.relative_to(root).as_posix().lower())
    names = {"train": "train", "training": "train", "validation": "validation", "valid": "validation"}
    names |= {"val": "validation", "dev": "validation", "test": "test", "testing": "test", "eval": "test"}
    return next((names[word] for word in words if word in names), None)


def _card(root: Path) -> dict[str, Any]:
    """The YAML head of the dataset's README.md."""
    readme = root / "README.md"
    parts = readme.read_text(encoding="utf-8").split("---", 2) if readme.is_file() else []
    card = yaml.safe_load(parts[1]) if len(parts) == 3 and not parts[0].strip() else {}
    return card if isinstance(card, dict) else {}
