"""Comparisons across many trainings: candidates, one held-out set, intervals, a choice."""
