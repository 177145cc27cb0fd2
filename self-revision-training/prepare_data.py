"""Phase 1: split D_revision into the two SFT stages. Knobs: configs/srt_data.yaml, or --help."""

from srt.common.errors import run_entry_point
from srt.config import print_help_if_asked


def main(argv: list[str]) -> None:
    print_help_if_asked("srt_data", argv)
    from srt.collect.split import prepare  # here, so that Ctrl-C ends it cleanly

    prepare(argv)


if __name__ == "__main__":
    run_entry_point(main)
