"""Training: one loop for every recipe, from scratch or from a checkpoint."""
