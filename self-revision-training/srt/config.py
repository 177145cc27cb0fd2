"""Knobs: `key=value` on the command line, then the environment variable, then the YAML default.

configs/<entry point>.yaml is the single source of defaults and the knob table; a dataclass gives the types:

    batch_size: ${oc.env:BATCH_SIZE,64}  # problems in flight
"""

import difflib
import math
import os
import re
import sys
from dataclasses import MISSING, dataclass, fields
from dataclasses import field as dataclass_field
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from srt.common.errors import UserError

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
SWITCHES = ("0", "1", "false", "true", "no", "yes", "off", "on", "n", "y")
Schema = TypeVar("Schema")

_KNOB_LINE = re.compile(
    r"^(?P<key>\w+): *(?P<value>\$\{oc\.env:(?P<env>\w+),(?P<default>.*?)\}|[^#]*?) *(?:# *(?P<help>.*))?$"
)


def option(*, choices: tuple | None = None, ge: float | None = None, le: float | None = None) -> Any:
    """A dataclass field whose value is checked: one of `choices`, and within [ge, le]."""
    # MISSING as default keeps every default in the YAML: a schema alone has none.
    return dataclass_field(default=MISSING, metadata={"choices": choices, "ge": ge, "le": le})


@dataclass(frozen=True)
class KnobLine:
    key: str
    env: str | None
    default: str
    help: str


def read_knob_table(yaml_path: Path) -> list[KnobLine | str]:
    """The YAML's knobs in order; a line that is only a comment is a heading (str)."""
    table: list[KnobLine | str] = []
    for line in yaml_path.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            table.append(line.lstrip("# "))
        elif match := _KNOB_LINE.match(line):
            default = match["default"] if match["env"] else match["value"]
            table.append(KnobLine(match["key"], match["env"], default, match["help"] or ""))
    return table


def print_help(yaml_path: Path) -> None:
    print(f"Knobs of {yaml_path.stem} (environment variable or key=value; the command line wins)\n")
    for line in read_knob_table(yaml_path):
        if isinstance(line, str):
            print(f"\n{line}" if line else "")
            continue
        default = line.default.replace("${oc.env:", "$").replace("}", "") or '""'
        print(f"  {line.env or line.key}={default}\n      {line.help}")


def print_help_if_asked(config_name: str, argv: list[str]) -> None:
    """Print the knob table and exit, when that is asked for; entry points do so before they import torch."""
    if any(argument in ("-h", "--help") for argument in argv):
        print_help(CONFIGS / f"{config_name}.yaml")
        sys.exit(0)


def load_config(schema: type[Schema], config_name: str, argv: list[str]) -> Schema:
    """Resolve and check all knobs of one entry point; `--help` prints the table and exits.

    Raises UserError, naming the knob and its meaning, for an unknown key or a bad value.
    """
    print_help_if_asked(config_name, argv)
    yaml_path = CONFIGS / f"{config_name}.yaml"
    lines = {line.key: line for line in read_knob_table(yaml_path) if isinstance(line, KnobLine)}
    overrides = dict(_override(argument, lines) for argument in argv)
    config = OmegaConf.structured(schema)
    OmegaConf.set_readonly(config, False)  # as a frozen schema makes it
    config = OmegaConf.merge(config, OmegaConf.load(yaml_path))
    values = {}
    for field in sorted(fields(schema), key=lambda field: list(lines).index(field.name)):
        line = lines[field.name]
        given = overrides.get(field.name, os.environ.get(line.env or "", line.default))
        refusal = f"{line.env or line.key}={given}: {_expected(field.type)} is expected ({line.help})"
        try:
            if field.name in overrides:
                config[field.name] = overrides[field.name]
            elif given == "null":  # the environment can only say it as text
                config[field.name] = None
            value = config[field.name]
        except OmegaConfBaseException as error:
            raise UserError(refusal) from error
        if isinstance(value, bool) and str(given).lower() not in SWITCHES:  # to OmegaConf, 2 is true
            raise UserError(refusal)
        _check(value, field.metadata, line)
        values[field.name] = value
    _warn_of_near_misses(lines)
    return schema(**values)


def _override(argument: str, lines: dict[str, KnobLine]) -> tuple[str, str | None]:
    key, equals, value = argument.partition("=")
    by_env = {line.env: line.key for line in lines.values() if line.env}
    key = by_env.get(key, key)
    if not equals or key not in lines:
        near = difflib.get_close_matches(key, [*lines, *by_env], n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UserError(f"unknown knob {argument!r}{hint} (--help lists all; the form is key=value)")
    return key, None if value == "null" else value


def _expected(type_: Any) -> str:
    text = str(type_)
    for name, words in (("bool", "0 or 1"), ("int", "a whole number"), ("float", "a number")):
        if name in text:
            return words
    return "a text"


def _check(value: Any, metadata: Any, line: KnobLine) -> None:
    name = f"{line.env or line.key}={value}"
    choices, ge, le = metadata.get("choices"), metadata.get("ge"), metadata.get("le")
    if value is None:
        return
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{name}: a finite number is expected ({line.help})")
    if choices and value not in choices:
        raise UserError(f"{name}: one of {', '.join(map(str, choices))} is expected ({line.help})")
    if ge is not None and value < ge:
        raise UserError(f"{name}: at least {ge} is expected ({line.help})")
    if le is not None and value > le:
        raise UserError(f"{name}: at most {le} is expected ({line.help})")


def _warn_of_near_misses(lines: dict[str, KnobLine]) -> None:
    """A misspelt environment variable is silently ignored by everybody else; say so."""
    known = [line.env for line in lines.values() if line.env]
    everywhere = {
        line.env for path in CONFIGS.glob("*.yaml") for line in read_knob_table(path) if isinstance(line, KnobLine)
    }
    for variable in os.environ:
        if variable not in everywhere and len(variable) > 5:
            near = difflib.get_close_matches(variable, known, n=1, cutoff=0.9)
            if near:
                print(f"warning: the environment has {variable}, which is no knob; did you mean {near[0]}?")
