"""Where the reviser disagrees, token by token. Knobs: configs/localize.yaml, or --help."""

from srt.common.errors import run_entry_point
from srt.config import print_help_if_asked


def main(argv: list[str]) -> None:
    print_help_if_asked("localize", argv)
    from opsd.localize.run import localize  # takes seconds: --help does not wait for it, and Ctrl-C may end it

    localize(argv)


if __name__ == "__main__":
    run_entry_point(main)
