"""--help of a script, and the refusal of wrong knobs: both before torch is imported, which takes seconds."""

import contextlib
import io
import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Collection
from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypeVar

from srt.common.dry_run import DRY_RUN
from srt.common.progress import no_bars_in_files
from srt.config import CONFIGS, KnobLine, load_config, read_knob_table
from srt.knob_notes import script_of

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Schema = TypeVar("Schema", bound="DataclassInstance")
MAX_WIDTH = 100


def help_or_refuse(
    schema: type[Schema],
    config_name: str,
    argv: list[str],
    may_change: Collection[str] = (),
    check: Callable[[Schema], None] = lambda config: None,
) -> None:
    """Print the help and exit if --help is among `argv`. Raises UserError for a wrong knob, as does `check`.

    may_change: the knobs (keys) that may have another value when a run continues.
    """
    if "-h" in argv or "--help" in argv:
        print_help(schema, config_name, may_change)
        sys.exit(0)
    with contextlib.redirect_stdout(io.StringIO()):  # notes: they are printed when the knobs are loaded for good
        check(load_config(schema, config_name, [argument for argument in argv if argument != DRY_RUN]))
    no_bars_in_files()


def print_help(schema: type, config_name: str, may_change: Collection[str] = ()) -> None:
    """The knob table of configs/<config_name>.yaml, with what values each knob takes."""
    script = f"scripts/{script_of(config_name)}"
    width = min(shutil.get_terminal_size((MAX_WIDTH, 24)).columns, MAX_WIDTH)
    by_name = {field.name: field for field in fields(schema)}
    print(_folded(f"Knobs of {script}: environment variables, or key=value arguments, which win", width))
    table = read_knob_table(CONFIGS / f"{config_name}.yaml")
    for line, following in zip(table, [*table[1:], ""], strict=True):
        if isinstance(line, str):
            if isinstance(following, KnobLine):  # the title of a group
                print()
            print(_example(line, width) if line.startswith("Example") else _folded(line, width))
        else:
            # A default may be another variable's value: ${oc.env:MODEL_PATH,default}
            default = re.sub(r"\$\{oc\.env:(\w+),", r"$\1, else ", line.default).replace("}", "") or '""'
            values = accepted_values(by_name[line.key])
            mark = " *" if line.key in may_change else ""
            print(f"  {line.env or line.key}={default}{f'  ({values})' if values else ''}{mark}")
            print(_folded(line.help, width, " " * 6))
    if may_change:
        print()
        print(_folded("* may have another value when a run continues; the others decide what comes out", width))


def _example(line: str, width: int) -> str:
    """`Example, what for: command`; where that is too long for a line, with a command that can still be pasted."""
    if len(line) <= width:
        return line
    title, command = line.split(": ", 1)
    unbroken = command.replace("bash ", "bash\0")
    folded = _folded(unbroken, width - len(" \\"), " " * 4)
    return f"{title}:\n" + folded.replace("\n", " \\\n").replace("\0", " ")


def _folded(text: str, width: int, indent: str = "") -> str:
    return textwrap.fill(
        text,
        width,
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def accepted_values(field: Any) -> str:
    """Such as "0 or 1", "whole number from 1", "number from 0 to 1" or "one of a, b"; "" for any text."""
    metadata, annotation = field.metadata, str(field.type)
    if choices := metadata.get("choices"):
        return f"one of {', '.join(map(str, choices))}"
    if "bool" in annotation:
        return "0 or 1"
    whole = "int" in annotation
    if not whole and "float" not in annotation:
        return ""
    limits = {name: metadata.get(name) for name in ("ge", "gt", "le")}
    least, above, most = (n if n is None else str(n) if whole else f"{n:g}" for n in limits.values())
    text = "whole number" if whole else "number"
    if least is not None:
        text += f" from {least}"
    elif above is not None:
        text += f" above {above}"
    if most is not None:
        text += f" to {most}" if least is not None else f", at most {most}"
    return text
