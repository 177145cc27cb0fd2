"""Phase 1: two-stage SFT. Knobs: configs/sft.yaml, or --help."""

from srt.common.errors import run_entry_point
from srt.config import print_help_if_asked


def main(argv: list[str]) -> None:
    print_help_if_asked("sft", argv)
    from srt.sft.run import train  # takes seconds: --help need not wait, and Ctrl-C ends it cleanly

    train(argv)


if __name__ == "__main__":
    run_entry_point(main)
