"""What is done with a finished life: its report, its gate, its feedback."""
