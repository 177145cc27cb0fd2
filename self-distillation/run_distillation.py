"""Phase 2: on-policy self-distillation. Knobs: configs/distill.yaml, or --help."""

from srt.common.errors import run_entry_point
from srt.config import print_help_if_asked


def main(argv: list[str]) -> None:
    print_help_if_asked("distill", argv)
    from opsd.distill import distill  # takes seconds: --help does not wait for it, and Ctrl-C may end it

    distill(argv)


if __name__ == "__main__":
    run_entry_point(main)
