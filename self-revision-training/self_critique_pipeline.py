"""Phase 1: collect D_revision. Knobs: configs/srt_data.yaml, or --help."""

from srt.common.entry_point import run_entry_point


def main(argv: list[str]) -> None:
    from srt.collect.config import MAY_CHANGE, CollectConfig, check
    from srt.knob_help import help_or_refuse

    help_or_refuse(CollectConfig, "srt_data", argv, MAY_CHANGE, check)
    from srt.collect.run import collect  # takes seconds: --help need not wait, and Ctrl-C ends it cleanly

    collect(argv)


if __name__ == "__main__":
    run_entry_point(main)
