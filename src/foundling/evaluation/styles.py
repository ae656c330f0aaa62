"""What an instruction changes: to be short, to admit not knowing, to cite a source."""

from __future__ import annotations

from foundling.evaluation.task import Evaluable
from foundling.evaluation.tasks.generation import Generation
from foundling.evaluation.variants import Variants, of_text

STYLES = {
    "short answer": "Answer in as few words as possible.",
    "I don't know": 'If you are not sure of the answer, say "I don\'t know" instead of guessing.',
    "cite your source": "Name the source of your answer.",
}


def styled(task: Generation, seed: int) -> Evaluable:
    """A task of generated answers asked plainly and with each instruction before the question."""
    changes = {name: of_text(f"{instruction}\n{{}}".format) for name, instruction in STYLES.items()}
    known = [metric.name for metric in task.task.metrics]
    follow = [known[0], *(name for name in ("valid", "invented", "abstained") if name in known)]
    return Variants(task, "styles", changes, tuple(follow), seed=seed)
