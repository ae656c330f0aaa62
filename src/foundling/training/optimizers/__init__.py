"""How gradients become updates: Muon for matrices, AdamW for the rest."""
