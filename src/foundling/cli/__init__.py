"""The command line: one verb per stage, flags generated from the configs."""
