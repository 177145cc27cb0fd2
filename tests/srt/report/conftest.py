"""A report of a complete run, shared by the tests that only read it."""

from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import pytest

from tests.srt.helpers.report_runs import make_report, write_run


@dataclass(frozen=True)
class WholeReport:
    """A run folder, its summary.json, its page, and what the command printed."""

    folder: Path
    summary: dict
    html: str
    printed: str


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> WholeReport:
    """The report of a run with every part; tests must not change its files."""
    folder = tmp_path_factory.mktemp("run")
    write_run(folder)
    with redirect_stdout(StringIO()) as printed:
        summary, html = make_report(folder)
    return WholeReport(folder, summary, html, printed.getvalue())
