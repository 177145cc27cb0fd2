"""Stands in for mlflow, which NeMo-RL imports and this repository does not use; see driver/runtime.py."""
