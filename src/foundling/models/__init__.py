"""Models: parts (`layers/`), published architectures (`families/`), their cost, and their Hugging Face directories."""
