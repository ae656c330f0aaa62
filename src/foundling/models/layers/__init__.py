"""The parts that models are made of: one file per part."""
