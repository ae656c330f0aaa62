"""Native CPU kernels: C compiled for this machine at first use, beside the plain PyTorch that says what they compute."""
