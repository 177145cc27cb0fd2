"""A report of a complete run, shared by the tests that only read it; and a browser."""

from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import pytest

from tests.srt.helpers.browser import Browser
from tests.srt.helpers.report_logs import write_logs
from tests.srt.helpers.report_runs import Page, make_report, write_run


@dataclass(frozen=True)
class WholeReport:
    """A run folder, its summary.json, its page, and what the command printed."""

    folder: Path
    summary: dict
    html: str
    printed: str

    @property
    def page(self) -> Page:
        return Page(self.html)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> WholeReport:
    """The report of a run with every part; tests must not change its files."""
    folder = tmp_path_factory.mktemp("run")
    write_run(folder)
    write_logs(folder)
    with redirect_stdout(StringIO()) as printed:
        summary, html = make_report(folder)
    return WholeReport(folder, summary, html, printed.getvalue())


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    browser = Browser()
    yield browser
    browser.close()
