"""Instruction → one Python expression, graded by running it: the task on which a life's models are compared."""

from foundling.evaluation.tasks.expressions.grading import Outcome, grade
from foundling.evaluation.tasks.expressions.items import VERSION, Item, Split, generate, held_out_prompts, messages

__all__ = ["VERSION", "Item", "Outcome", "Split", "generate", "grade", "held_out_prompts", "messages"]
