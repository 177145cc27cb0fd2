"""Phase 1: collect D_revision. Knobs: configs/srt_data.yaml, or --help."""

from srt.common.errors import run_entry_point
from srt.config import print_help_if_asked


def main(argv: list[str]) -> None:
    print_help_if_asked("srt_data", argv)
    from srt.collect.run import collect  # takes seconds: --help need not wait, and Ctrl-C ends it cleanly

    collect(argv)


if __name__ == "__main__":
    run_entry_point(main)
