"""Summary tables, and the command that comes next."""

import os
import shlex
from collections.abc import Mapping

SCRIPTED = "SD_ZERO_SCRIPTED"  # set by scripts that run the next command themselves


def print_summary(title: str, values: Mapping[str, object]) -> None:
    print(f"\n{title}")
    width = max(len(name) for name in values)
    for name, value in values.items():
        print(f"  {name:<{width}}  {_formatted(value)}")


def print_next(script: str, knobs: Mapping[str, object]) -> None:
    """The next command to type. `knobs`: None leaves one out, as where it has its default."""
    if os.environ.get(SCRIPTED):
        return
    settings = [f"{name}={shlex.quote(str(value))}" for name, value in knobs.items() if value is not None]
    print(f"\nnext: {' '.join([*settings, 'bash', f'scripts/{script}.sh'])}")


def _formatted(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, dict):
        return ", ".join(f"{name}: {_formatted(part)}" for name, part in value.items()) or "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
