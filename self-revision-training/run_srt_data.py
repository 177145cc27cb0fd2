"""Phase 1, data: collect D_revision, then split it into the two SFT stages. Knobs: configs/srt_data.yaml."""

from srt.common.entry_point import run_entry_point


def main(argv: list[str]) -> None:
    from srt.config import print_help_if_asked  # here, so that Ctrl-C during any import ends it cleanly

    print_help_if_asked("srt_data", argv)
    from srt.collect.run import collect  # takes seconds: --help need not wait
    from srt.collect.split import prepare
    from srt.common.dry_run import DRY_RUN

    collect(argv)
    if DRY_RUN not in argv:
        prepare(argv)


if __name__ == "__main__":
    run_entry_point(main)
