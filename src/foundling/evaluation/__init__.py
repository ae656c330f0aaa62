"""Evaluation: tasks, scores with intervals and references, paired comparisons."""
