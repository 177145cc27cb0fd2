"""Report of a whole run. Knobs: configs/report.yaml, or --help."""

from srt.common.errors import run_entry_point
from srt.config import print_help_if_asked


def main(argv: list[str]) -> None:
    print_help_if_asked("report", argv)
    from srt.report.run import report  # takes seconds: --help need not wait, and Ctrl-C ends it cleanly

    report(argv)


if __name__ == "__main__":
    run_entry_point(main)
