"""Progress bars and summary tables."""

import sys
from collections.abc import Mapping

from tqdm import tqdm


def progress(total: int, unit: str, initial: int = 0) -> tqdm:
    """A bar that keeps refreshing while nothing finishes, and that does not flood a log file."""
    return tqdm(
        total=total,
        unit=unit,
        initial=initial,
        miniters=0,
        mininterval=0.3 if sys.stderr.isatty() else 10.0,
        dynamic_ncols=True,
        smoothing=0.05,
    )


def print_summary(title: str, values: Mapping[str, object]) -> None:
    print(f"\n{title}")
    width = max(len(name) for name in values)
    for name, value in values.items():
        print(f"  {name:<{width}}  {_formatted(value)}")


def _formatted(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, dict):
        return ", ".join(f"{name}: {_formatted(part)}" for name, part in value.items()) or "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
