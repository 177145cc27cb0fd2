"""Where the reviser disagrees, token by token. Knobs: configs/localize.yaml, or --help."""

from srt.common.entry_point import run_entry_point


def main(argv: list[str]) -> None:
    from opsd.localize.config import NOT_IDENTITY, LocalizeConfig
    from srt.knob_help import help_or_refuse

    help_or_refuse(LocalizeConfig, "localize", argv, NOT_IDENTITY)
    from opsd.localize.run import localize  # takes seconds: --help does not wait for it, and Ctrl-C may end it

    localize(argv)


if __name__ == "__main__":
    run_entry_point(main)
