"""Evaluate checkpoints. Knobs: configs/evaluate.yaml, or --help."""

from srt.common.entry_point import run_entry_point


def main(argv: list[str]) -> None:
    from srt.config import print_help_if_asked  # here, so that Ctrl-C during any import ends it cleanly

    print_help_if_asked("evaluate", argv)
    from srt.evaluation.run import evaluate  # takes seconds: --help need not wait, and Ctrl-C ends it cleanly

    evaluate(argv)


if __name__ == "__main__":
    run_entry_point(main)
