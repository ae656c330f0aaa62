"""What every layer stands on: configs, artifacts, errors, units, randomness, hardware, progress."""
