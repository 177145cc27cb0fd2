"""What people see: progress bars and small tables."""

import sys

from tqdm import tqdm


def progress(total: int, unit: str, initial: int = 0) -> tqdm:
    """A bar that also refreshes when nothing was finished, and that does not flood a log file."""
    return tqdm(
        total=total,
        unit=unit,
        initial=initial,
        miniters=0,
        mininterval=0.3 if sys.stderr.isatty() else 10.0,
        dynamic_ncols=True,
        smoothing=0.05,
    )


def print_summary(title: str, rows: dict[str, object]) -> None:
    print(f"\n{title}")
    width = max(len(name) for name in rows)
    for name, value in rows.items():
        print(f"  {name:<{width}}  {_readable(value)}")


def _readable(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, dict):
        return ", ".join(f"{name}: {_readable(part)}" for name, part in value.items()) or "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
