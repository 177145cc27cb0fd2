"""Stands in for wandb, which NeMo-RL imports and this repository does not use; see driver/runtime.py."""


class Histogram:
    """Imported by name, made nowhere in Phase 2."""


class Table:
    """Imported by name, made nowhere in Phase 2."""
