"""What can be learnt from a stream of tokens: each objective is a batch builder and a loss."""
