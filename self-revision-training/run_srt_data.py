"""Phase 1, data: collect D_revision, then split it into the two SFT stages. Knobs: configs/srt_data.yaml."""

from srt.common.entry_point import run_entry_point


def main(argv: list[str]) -> None:
    from srt.collect.config import MAY_CHANGE, CollectConfig, check
    from srt.knob_help import help_or_refuse

    help_or_refuse(CollectConfig, "srt_data", argv, MAY_CHANGE, check)
    from srt.collect.run import collect  # takes seconds: --help need not wait
    from srt.collect.split import prepare
    from srt.common.dry_run import DRY_RUN

    collect(argv)
    if DRY_RUN not in argv:
        prepare(argv)


if __name__ == "__main__":
    run_entry_point(main)
