"""`name=value` arguments of the experiment's modules."""

import sys
from collections.abc import Callable
from typing import Any


def read_settings(arguments: list[str], usage: str | None, **types: Callable[[str], Any]) -> dict[str, Any]:
    """The values of the arguments, by name; exits with `usage` for -h, an unknown name or a missing one."""
    if any(argument in ("-h", "--help") for argument in arguments):
        print(usage)
        sys.exit(0)
    given = dict(argument.split("=", 1) for argument in arguments if "=" in argument)
    if set(given) != set(types) or len(given) != len(arguments):
        sys.exit(f"expected {' '.join(f'{name}=...' for name in types)}, found {' '.join(arguments)}\n\n{usage}")
    return {name: convert(given[name]) for name, convert in types.items()}
