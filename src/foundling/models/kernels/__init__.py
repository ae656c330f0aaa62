"""Native CPU kernels: C compiled at first use for this machine, beside the PyTorch that says what they compute."""
