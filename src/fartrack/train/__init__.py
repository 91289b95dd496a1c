"""Training: recipes, the loop that all phases share, and checkpoints."""
