"""Settings as `name=value` arguments, and -h: of benchmarks and experiments, which have no knobs in configs/."""

import sys
from collections.abc import Iterable
from dataclasses import MISSING, Field, fields
from typing import Any, get_args

HELP = ("-h", "--help")


def show_help(arguments: Iterable[str], usage: str | None) -> None:
    """With -h or --help among the arguments, prints `usage`, the docstring of a module, and ends the process."""
    if any(argument in HELP for argument in arguments):
        print((usage or "").strip())
        sys.exit(0)


def read_name_values(kind: Any, arguments: list[str], usage: str | None) -> Any:
    """`kind`: a dataclass whose fields are of types that take text, or of such a type or None.

    For -h, and where a setting is needed and none is given, it prints `usage` and the settings and ends the
    process, which a setting that is unknown, missing or of another type ends with one sentence.
    """
    known: dict[str, Field] = {field.name: field for field in fields(kind)}
    needed = [name for name, field in known.items() if field.default is MISSING]
    if any(argument in HELP for argument in arguments) or (needed and not arguments):
        print(f"{(usage or '').strip()}\n\nsettings:")
        print("\n".join(f"  {name}={_default(field)}" for name, field in known.items()))
        sys.exit(0)
    values = {}
    for argument in arguments:
        name, equals, text = argument.partition("=")
        if not equals or name not in known:
            sys.exit(f"error: {argument} is no setting; there are {', '.join(f'{name}=' for name in known)}")
        convert: Any = (get_args(known[name].type) or (known[name].type,))[0]
        try:
            values[name] = convert(text)
        except ValueError:
            sys.exit(f"error: {argument}: expected a value of type {convert.__name__}")
    if missing := [name for name in needed if name not in values]:
        sys.exit(f"error: {', '.join(f'{name}=' for name in missing)} must be given; -h shows all settings")
    return kind(**values)


def _default(field: Field) -> Any:
    return "..." if field.default is MISSING else field.default
