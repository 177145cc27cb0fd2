"""The report of a run: summary.json and report.html."""
