"""Summary tables."""

from collections.abc import Mapping


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
