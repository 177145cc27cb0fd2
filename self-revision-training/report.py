"""Report of a whole run. Knobs: configs/report.yaml, or --help."""

from srt.common.entry_point import run_entry_point


def main(argv: list[str]) -> None:
    from srt.knob_help import help_or_refuse
    from srt.report.run import ReportConfig, knobs_among

    help_or_refuse(ReportConfig, "report", knobs_among(argv))
    from srt.report.run import report  # takes seconds: --help need not wait, and Ctrl-C ends it cleanly

    report(argv)


if __name__ == "__main__":
    run_entry_point(main)
