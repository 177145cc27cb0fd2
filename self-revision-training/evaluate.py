"""Evaluate checkpoints. Knobs: configs/evaluate.yaml, or --help."""

from srt.common.errors import run_entry_point
from srt.config import print_help_if_asked


def main(argv: list[str]) -> None:
    print_help_if_asked("evaluate", argv)
    from srt.evaluation.run import evaluate  # takes seconds: --help need not wait, and Ctrl-C ends it cleanly

    evaluate(argv)


if __name__ == "__main__":
    run_entry_point(main)
