"""Report of a whole run. Knobs: configs/report.yaml, or --help."""

from srt.errors import run_entry_point
from srt.report import report

if __name__ == "__main__":
    run_entry_point(report)
