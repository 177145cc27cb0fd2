"""Loaded before every other conftest: the shape checks must be in place before srt or opsd is imported."""

from tests import shape_checks

shape_checks.install()


def pytest_report_header() -> str:
    reason = shape_checks.missing_checker()
    return "annotated shapes: " + ("checked" if reason is None else f"NOT checked ({reason})")
