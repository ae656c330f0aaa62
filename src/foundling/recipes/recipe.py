"""Reading recipes: YAML with `extends:`, `--set NAME.field=value`, and refusals that name the nearest valid key.

name: my-life
seed: 0
budget: 10 minutes
stages:
  corpus: {stage: corpus, data: [my/texts/*.txt]}
  tokenizer: {stage: tokenizer, inputs: {corpus: corpus}, vocab_size: 4096}
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from foundling.core.config import Config, option, parse
from foundling.core.errors import FoundlingError, nearest

BUILT_IN = Path(__file__).parent
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class StageSpec(Config):
    """One stage of a recipe: its verb, where its inputs come from, and its config."""

    stage: str = option(help="the verb: corpus, tokenizer, pretrain, ...")
    inputs: dict[str, str] = option({}, "port -> a stage of this recipe, or a path, life/stage, key or hub id")
    config: dict[str, Any] = option({}, "the stage's own fields")


class Recipe(Config):
    """A life: named stages, joined by their inputs."""

    name: str = option(help="the life's name", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    description: str = option("", "one line about it")
    seed: int = option(0, "seed of every stage that does not set its own", ge=0)
    budget: float | None = option(None, "seconds the whole life may take on this machine ('10 minutes' in YAML)", gt=0)
    stages: dict[str, StageSpec] = option(help="the stages by name", min_length=1)


def recipe_names() -> list[str]:
    """The recipes that come with the package."""
    return sorted(path.stem for path in BUILT_IN.glob("*.yaml"))


def load_recipe(name_or_path: str, overrides: list[str] | None = None) -> Recipe:
    """Read a recipe by name or path, apply what it extends and the `--set` overrides, and check it.

    Raises:
        FoundlingError: no such recipe, broken YAML, an unknown or mistyped key, an override of nothing.
    """
    data = _read(find_recipe(name_or_path), seen=())
    for override in overrides or []:
        apply_override(data, override)
    return check_recipe(data, name_or_path)


def check_recipe(data: dict[str, Any], where: str) -> Recipe:
    """A typed recipe from plain data."""
    data = dict(data)
    stages = data.get("stages")
    if not isinstance(stages, dict):
        raise FoundlingError(f"recipe {where!r} has no stages", "`stages:` maps names to stages")
    if "report" in stages:
        raise FoundlingError(f"recipe {where!r} has a stage 'report'", "That name is kept for the life's own report")
    data["stages"] = {name: _stage_fields(name, fields, where) for name, fields in stages.items()}
    if isinstance(data.get("budget"), str):
        data["budget"] = parse_duration(data["budget"])
    return parse(Recipe, data, f"recipe {where!r}")


def find_recipe(name_or_path: str) -> Path:
    """The file of a recipe that comes with the package, or that the user wrote."""
    built_in = BUILT_IN / f"{name_or_path}.yaml"
    if built_in.is_file():
        return built_in
    path = Path(name_or_path).expanduser()
    if path.is_file():
        return path
    names = recipe_names()
    why = f"recipes that come with the package: {', '.join(names)}; or give a YAML file"
    raise FoundlingError(f"there is no recipe {name_or_path!r}", why, nearest(name_or_path, names))


def apply_override(data: dict[str, Any], override: str) -> None:
    """Apply one `NAME.field=value` (a stage's field) or `seed=1` (the recipe's own) in place; the value is YAML."""
    path, equals, text = override.partition("=")
    parts = path.strip().split(".")
    if not equals or not all(parts):
        raise FoundlingError(f"--set {override!r} is not understood", "it is NAME.field=value", "e.g. sft.epochs=2")
    value = _parse_yaml(text, f"--set {override}")
    if len(parts) == 1:
        data[parts[0]] = value
        return
    stages = data.get("stages", {})
    if parts[0] not in stages:
        why = f"the stages are {', '.join(stages)}"
        raise FoundlingError(f"--set {override!r}: there is no stage {parts[0]!r}", why, nearest(parts[0], stages))
    current = stages[parts[0]]
    for part in parts[1:-1]:
        current = current.setdefault(part, {})
        if not isinstance(current, dict):
            raise FoundlingError(f"--set {override!r}: {part!r} has no fields")
    current[parts[-1]] = value


def parse_duration(text: str) -> float:
    """'10 minutes', '90s', '2h' -> seconds."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", text.lower())
    unit = (match.group(2) or "s")[0] if match else ""
    if not match or unit not in _UNITS:
        raise FoundlingError(f"{text!r} is not a duration", "write it as '90 seconds', '10 minutes' or '2 hours'")
    return float(match.group(1)) * _UNITS[unit]


def as_yaml(recipe: Recipe) -> str:
    """The recipe as YAML that `load_recipe` reads back."""
    stages = {name: {"stage": s.stage, "inputs": dict(s.inputs), **s.config} for name, s in recipe.stages.items()}
    data = {"name": recipe.name, "description": recipe.description, "seed": recipe.seed, "budget": recipe.budget}
    kept = {key: value for key, value in data.items() if value not in (None, "")}
    return yaml.safe_dump({**kept, "stages": stages}, sort_keys=False, allow_unicode=True, width=110)


def _read(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    if path in seen:
        raise FoundlingError(f"recipe {path} extends itself", " -> ".join(p.stem for p in (*seen, path)))
    try:
        data = _parse_yaml(path.read_text(encoding="utf-8"), str(path))
    except UnicodeDecodeError:
        raise FoundlingError(f"recipe {path} is not UTF-8 text") from None
    if not isinstance(data, dict):
        raise FoundlingError(f"recipe {path} is not a mapping", "it needs at least `name:` and `stages:`")
    parent = data.pop("extends", None)
    if parent is None:
        return data
    beside = path.parent / f"{parent}.yaml"
    base = _read(beside if beside.is_file() else find_recipe(str(parent)), (*seen, path))
    return _merge(base, data)


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Deep merge; a stage set to null is left out."""
    merged = dict(base)
    for key, value in over.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = _merge(merged[key], value)
        else:
            merged[key] = value
    return merged


def _stage_fields(name: str, fields: Any, where: str) -> dict[str, Any]:
    if not isinstance(fields, dict):
        raise FoundlingError(f"recipe {where!r}: stage {name!r} is {fields!r}", "a stage is a mapping with `stage:`")
    own = {key: fields[key] for key in ("stage", "inputs") if key in fields}
    return {**own, "config": {key: value for key, value in fields.items() if key not in own}}


def _parse_yaml(text: str, where: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" at line {mark.line + 1}" if mark else ""
        raise FoundlingError(f"{where} is not YAML{line}", str(getattr(error, "problem", error))) from None
