"""Phase 1: split D_revision into the two SFT stages. Knobs: configs/srt_data.yaml, or --help."""

from srt.common.entry_point import run_entry_point


def main(argv: list[str]) -> None:
    from srt.collect.config import MAY_CHANGE, CollectConfig, check
    from srt.knob_help import help_or_refuse

    help_or_refuse(CollectConfig, "srt_data", argv, MAY_CHANGE, check)
    from srt.collect.split import prepare  # here, so that Ctrl-C ends it cleanly

    prepare(argv)


if __name__ == "__main__":
    run_entry_point(main)
