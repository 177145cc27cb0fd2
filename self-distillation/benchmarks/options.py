"""Options of a benchmark as name=value arguments, from the fields of a dataclass."""

from dataclasses import fields
from typing import Any


def read_options(kind: Any, arguments: list[str]) -> Any:
    """`kind`: a dataclass whose fields are of types that take text."""
    types: dict[str, Any] = {field.name: field.type for field in fields(kind)}
    given = dict(argument.split("=", 1) for argument in arguments)
    return kind(**{name: types[name](value) for name, value in given.items()})


def show_options(kind: Any) -> None:
    """Each with its default; `model` has none."""
    for field in fields(kind):
        print(f"  {field.name}={field.default if field.name != 'model' else '...'}")
