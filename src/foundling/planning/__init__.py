"""What a run will cost, before it is run: sizes, time, memory, disk."""
