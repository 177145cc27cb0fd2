"""`name=value` arguments of the experiment's modules, from the fields of a dataclass."""

import sys
from dataclasses import MISSING, fields
from typing import Any, get_args


def read_settings(kind: Any, arguments: list[str], usage: str | None) -> Any:
    """`kind`: a dataclass whose fields are of types that take text, or of such a type or None.

    Exits with `usage` for -h, an unknown name or a missing one.
    """
    if any(argument in ("-h", "--help") for argument in arguments):
        print(usage)
        sys.exit(0)
    types: dict[str, Any] = {field.name: (get_args(field.type) or (field.type,))[0] for field in fields(kind)}
    needed = {field.name for field in fields(kind) if field.default is MISSING}
    given = dict(argument.split("=", 1) for argument in arguments if "=" in argument)
    if not needed <= set(given) <= set(types) or len(given) != len(arguments):
        expected = " ".join(f"{name}=..." if name in needed else f"[{name}=...]" for name in types)
        sys.exit(f"expected {expected}, found {' '.join(arguments)}\n\n{usage}")
    return kind(**{name: types[name](value) for name, value in given.items()})
