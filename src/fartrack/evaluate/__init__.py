"""Evaluation: sequences with ground truth, the run over them, and the measures."""
