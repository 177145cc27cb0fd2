"""Evaluate a checkpoint. Knobs: configs/evaluate.yaml, or --help."""

from srt.errors import run_entry_point
from srt.evaluation import evaluate

if __name__ == "__main__":
    run_entry_point(evaluate)
