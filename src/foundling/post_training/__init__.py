"""From capability to behaviour: supervised fine-tuning, preferences, reinforcement; each a batch and a loss."""
