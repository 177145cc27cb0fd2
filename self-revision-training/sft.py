"""Phase 1: two-stage SFT. Knobs: configs/sft.yaml, or --help."""

from srt.common.entry_point import run_entry_point


def main(argv: list[str]) -> None:
    from srt.knob_help import help_or_refuse
    from srt.sft.config import NOT_IDENTITY, SftConfig

    help_or_refuse(SftConfig, "sft", argv, NOT_IDENTITY)
    from srt.sft.run import train  # takes seconds: --help need not wait, and Ctrl-C ends it cleanly

    train(argv)


if __name__ == "__main__":
    run_entry_point(main)
