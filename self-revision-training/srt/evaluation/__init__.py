"""Evaluation of checkpoints: sampled with the code of collection, compared with intervals over problems."""
