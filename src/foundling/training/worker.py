"""One of several processes that pretrain together: `torchrun -m foundling.training.worker JOB.json`.

`launch.together` starts them on one machine. On a cluster, start this module on every node with `torchrun` over a
shared directory: see docs/pretraining.md.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

from foundling.core import progress
from foundling.core.errors import FoundlingError
from foundling.core.files import write_json
from foundling.core.hardware import device
from foundling.training import checkpoint
from foundling.training.config import PretrainConfig
from foundling.training.meeting import join
from foundling.training.prefetch import Prefetched
from foundling.training.preparation import prepare
from foundling.training.trainer import Trainer

SUMMARY, WEIGHTS, ERROR = "summary.json", "result", "error.json"


def main(job: Path) -> int:
    """Train as the job file says: {config, tokens, base, data, log}. Its directory is the scratch directory."""
    told = json.loads(job.read_text(encoding="utf-8"))
    config = PretrainConfig.model_validate(told["config"])
    scratch = job.parent
    try:
        rank = join()
        progress.set_quiet(rank > 0)
        parts = prepare(config, Path(told["tokens"]), Path(told["base"]) if told["base"] else None)
        trainer = Trainer(
            parts.module.to(device()),
            Prefetched(parts.objective),
            config,
            scratch,
            log=Path(told["log"]) if rank == 0 else scratch / f"process-{rank}.log.jsonl",
            evaluate=parts.evaluate,
            data=told["data"],
            flops_per_token=parts.module.config.flops_per_token(config.context, training=True),
            title="pretrain",
        )
        summary = trainer.fit()
        checkpoint.save_weights(scratch / WEIGHTS, checkpoint.trained_weights(parts.module), trainer.world.group)
    except FoundlingError as error:
        write_json(scratch / ERROR, {"what": error.what, "why": error.why, "fix": error.fix})
        return error.exit_code
    if rank == 0:
        write_json(scratch / SUMMARY, asdict(summary))
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
