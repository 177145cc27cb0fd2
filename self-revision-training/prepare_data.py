"""Phase 1: split D_revision into the two SFT stages. Knobs: configs/srt_data.yaml, or --help."""

from srt.common.entry_point import run_entry_point


def main(argv: list[str]) -> None:
    from srt.config import print_help_if_asked  # here, so that Ctrl-C during any import ends it cleanly

    print_help_if_asked("srt_data", argv)
    from srt.collect.split import prepare  # here, so that Ctrl-C ends it cleanly

    prepare(argv)


if __name__ == "__main__":
    run_entry_point(main)
