"""What a recipe will cost on this machine: time, memory and disk of each stage, before anything runs.

Facts about artifacts (how much text, which vocabulary, which architecture) flow along the recipe's edges, and every
stage is priced from those of its inputs (`stage_costs.py`).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from foundling.core import hardware
from foundling.core.artifacts import Artifact, Store
from foundling.core.errors import FoundlingError
from foundling.core.hardware import Rates
from foundling.core.stages import Node
from foundling.core.units import human_bytes
from foundling.models.families.translate import config_from_hf
from foundling.planning.stage_costs import ESTIMATES, Facts, Job, StageEstimate

MANY = 4  # inputs of a stage are named up to so many
DATA_STAGES = {"corpus", "tokenizer", "tokenize"}
KEPT_BYTES = 0.8e9  # what their libraries keep in the life's process after they ran


@dataclass
class LifePlan:
    """The plan of a life: its stages in order, and the machine it is for.

    Attributes:
        free_disk: bytes that are free where the store is.
    """

    name: str
    machine: str
    free_disk: float
    stages: list[StageEstimate]

    @property
    def seconds(self) -> float:
        """Wall time of what has still to be made."""
        return sum(stage.seconds for stage in self.stages if not stage.reused)

    @property
    def memory(self) -> float:
        """Peak memory over what has still to be made."""
        return max((stage.memory for stage in self.stages if not stage.reused), default=0.0)

    @property
    def disk(self) -> float:
        """Bytes of all artifacts."""
        return sum(stage.disk for stage in self.stages)

    @property
    def needed_disk(self) -> float:
        """Bytes that have still to be written: artifacts, and the largest checkpoint beside them."""
        left = [stage for stage in self.stages if not stage.reused]
        return sum(stage.disk for stage in left) + max((stage.checkpoint for stage in left), default=0.0)

    def refuse_if_too_large(self) -> None:
        """Raise FoundlingError, with the numbers, if a stage needs more memory than there is, or all more disk."""
        most = max(self.stages, key=lambda stage: 0.0 if stage.reused else stage.memory)
        have = hardware.memory_bytes()
        if not most.reused and most.memory > have:
            what = f"stage {most.name!r} needs about {human_bytes(most.memory)} of memory"
            fix = "Use less text" if most.verb in DATA_STAGES else "Use a smaller preset or micro_batch"
            raise FoundlingError(what, f"this machine has {human_bytes(have)}", fix)
        if self.needed_disk > self.free_disk:
            most = max(self.stages, key=lambda stage: 0.0 if stage.reused else stage.disk)
            what = f"{self.name!r} needs about {human_bytes(self.needed_disk)} of disk, most of it for {most.name!r}"
            raise FoundlingError(
                what,
                f"where the store is, {human_bytes(self.free_disk)} are free",
                "Put the store on a larger disk (--store), or free some (`foundling gc`)",
            )

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        total = {"seconds": self.seconds, "memory": self.memory, "disk": self.disk}
        total |= {"needed_disk": self.needed_disk, "free_disk": self.free_disk}
        return {"name": self.name, "machine": self.machine, **total, "stages": [asdict(stage) for stage in self.stages]}


def plan_life(name: str, nodes: Sequence[Node], store: Store, rates: Rates) -> LifePlan:
    """Estimate every stage of a resolved life. What the store already has costs nothing."""
    known: dict[str, Facts] = {}
    stages, kept = [], 0.0
    for node in nodes:
        found = store.find(node.key)
        estimate = StageEstimate(node.name, node.stage.verb, _reads(node), node.stage.kind, found is not None)
        job = Job(node.config, _facts_of_inputs(node, known), rates, estimate)
        price = ESTIMATES.get(node.stage.verb)
        known[node.name] = price(job) if price else Facts()
        if node.stage.verb not in DATA_STAGES:
            estimate.memory += kept
        elif found is None:
            kept = KEPT_BYTES
        if found is not None:
            estimate.disk = float(found.size)
        stages.append(estimate)
    return LifePlan(name, hardware.describe(), _free(store.root), stages)


def _facts_of_inputs(node: Node, known: Mapping[str, Facts]) -> dict[str, Facts]:
    return {
        port: known[node.sources[port]] if isinstance(found, str) else _facts_of_outside(found)
        for port, found in node.inputs.items()
    }


def _facts_of_outside(artifact: Artifact) -> Facts:
    """What an artifact from outside the life says of itself."""
    if (shape := artifact.path / "config.json").is_file():
        model = config_from_hf(json.loads(shape.read_text(encoding="utf-8")), str(shape))
        return Facts(vocab_size=model.vocab_size, model=model)
    if (meta := artifact.path / "tokens.json").is_file():
        return Facts(vocab_size=int(json.loads(meta.read_text(encoding="utf-8"))["vocab_size"]))
    return Facts()


def _free(root: Path) -> float:
    """Bytes that are free on the disk of a folder that may not be there yet."""
    there = next(path for path in (root.absolute(), *root.absolute().parents) if path.exists())
    return float(shutil.disk_usage(there).free)


def _reads(node: Node) -> str:
    if len(node.sources) > MANY:
        return f"{len(node.sources)} stages"
    return ", ".join(node.sources.values()) or ", ".join(str(x) for x in getattr(node.config, "data", ())) or "-"
