"""Where the reviser disagrees, token by token. Knobs: configs/localize.yaml, or --help."""

from srt.common.entry_point import run_entry_point


def main(argv: list[str]) -> None:
    from srt.config import print_help_if_asked  # here, so that Ctrl-C during any import ends it cleanly

    print_help_if_asked("localize", argv)
    from opsd.localize.run import localize  # takes seconds: --help does not wait for it, and Ctrl-C may end it

    localize(argv)


if __name__ == "__main__":
    run_entry_point(main)
