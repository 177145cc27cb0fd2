"""Means and percentages in the tables of these experiments."""

from collections.abc import Sequence


def mean(values: Sequence[float]) -> float | None:
    """None without any."""
    return sum(values) / len(values) if values else None


def percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"


def points(difference: float | None) -> str:
    """A difference between two shares, in percentage points."""
    return "-" if difference is None else f"{100 * difference:+.1f}"
