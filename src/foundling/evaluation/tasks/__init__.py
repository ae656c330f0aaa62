"""The tasks a model can be evaluated on, one file each."""
