"""Text to ids and back: training tokenizers, encoding in bulk, the one chat renderer, fairness across languages."""
