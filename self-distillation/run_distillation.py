"""Phase 2: on-policy self-distillation. Knobs: configs/distill.yaml, or --help."""

from srt.common.entry_point import run_entry_point


def main(argv: list[str]) -> None:
    from opsd.config import NOT_IDENTITY, VALIDATION_KNOBS, DistillConfig, check
    from srt.knob_help import help_or_refuse

    help_or_refuse(DistillConfig, "distill", argv, NOT_IDENTITY + VALIDATION_KNOBS, check)
    from opsd.distill import distill  # takes seconds: --help does not wait for it, and Ctrl-C may end it

    distill(argv)


if __name__ == "__main__":
    run_entry_point(main)
