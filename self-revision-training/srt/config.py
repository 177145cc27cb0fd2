"""Configuration: `key=value` on the command line wins over the environment variable, the recipe and the YAML, in
this order.

configs/<entry point>.yaml is the knob table and the only source of defaults; a dataclass gives the types:

    batch_size: ${oc.env:BATCH_SIZE,64}  # problems in flight

configs/recipes/<recipe>.yaml has other values for some knobs of each entry point; RECIPE chooses it (recipe.py).
"""

import difflib
import math
import os
import re
from dataclasses import MISSING, Field, dataclass, fields
from dataclasses import field as dataclass_field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from srt.common.errors import UserError
from srt.knob_notes import ignored_lines, right_names, set_knobs_line

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
RECIPES = tuple(sorted(path.stem for path in (CONFIGS / "recipes").glob("*.yaml")))
SWITCHES = ("0", "1", "false", "true", "no", "yes", "off", "on", "n", "y")
_VARIABLE = re.compile(r"oc\.env:(\w+)")
Schema = TypeVar("Schema", bound="DataclassInstance")

_KNOB_LINE = re.compile(
    r"^(?P<key>\w+): *(?P<value>\$\{oc\.env:(?P<env>\w+),(?P<default>.*?)\}|[^#]*?) *(?:# *(?P<help>.*))?$"
)


LARGEST_SEED = 2**32 - 1  # that numpy takes


def option(
    *,
    choices: tuple | None = None,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    path: bool = False,
) -> Any:
    """A dataclass field whose value is checked when it is loaded: one of `choices`, within [ge, le], above gt.

    `path`: it may name a file or folder, so `~` is expanded, and a trailing slash or an empty name means nothing.
    """
    # No default here: all of them are in the YAML.
    return dataclass_field(
        default=MISSING, metadata={"choices": choices, "ge": ge, "gt": gt, "le": le, "path": path}
    )


def seed_option() -> Any:
    return option(ge=0, le=LARGEST_SEED)


@dataclass(frozen=True)
class KnobLine:
    """One line of a knob table: `key: ${oc.env:env,default}  # help`."""

    key: str
    env: str | None
    default: str
    help: str

    @property
    def variables(self) -> list[str]:
        """The environment variables that it is read from: its own, then those that stand in for it."""
        return [self.env, *_VARIABLE.findall(self.default)] if self.env else []

    @property
    def fixed_default(self) -> str:
        """The default without the variables that stand in for it."""
        return re.sub(r"\$\{oc\.env:\w+,", "", self.default).rstrip("}") if self.env else self.default


def read_knob_table(yaml_path: Path) -> list[KnobLine | str]:
    """The knobs of a YAML file in order; a line that is only a comment is a heading (str)."""
    table: list[KnobLine | str] = []
    for line in yaml_path.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            table.append(line.lstrip("# "))
        elif match := _KNOB_LINE.match(line):
            default = match["default"] if match["env"] else match["value"]
            table.append(KnobLine(match["key"], match["env"], default, match["help"] or ""))
    return table


def default_of(config_name: str, key: str) -> str:
    """The default of a knob as its YAML file has it, whatever recipe and environment say."""
    table = read_knob_table(CONFIGS / f"{config_name}.yaml")
    return next(line.fixed_default for line in table if isinstance(line, KnobLine) and line.key == key)


def load_config(schema: type[Schema], config_name: str, argv: list[str]) -> Schema:
    """Resolve and check every knob of one entry point (--help is answered before, in knob_help.py).

    Raises UserError, naming the knob and what it means, for an unknown key or a bad value.
    """
    yaml_path = CONFIGS / f"{config_name}.yaml"
    table = {line.key: line for line in read_knob_table(yaml_path) if isinstance(line, KnobLine)}
    overrides = dict(_parse_override(argument, table, config_name) for argument in argv)
    config = OmegaConf.structured(schema)
    OmegaConf.set_readonly(config, False)  # a frozen schema makes it read-only
    config = OmegaConf.merge(config, OmegaConf.load(yaml_path))
    by_name = {field.name: field for field in fields(schema)}
    recipe: dict[str, Any] = {}
    if "recipe" in table:
        name = _resolve(config, by_name["recipe"], table["recipe"], overrides, recipe)
        recipe = read_recipe(name, config_name)
    # In the order of the table, which is also the order in which bad values are reported.
    values = {key: _resolve(config, by_name[key], line, overrides, recipe) for key, line in table.items()}
    _print_notes(config_name, table, overrides, values, config)
    return schema(**values)


def read_recipe(name: str, config_name: str) -> dict[str, Any]:
    """Knob (key) -> value, for the knobs of one entry point that the recipe sets.

    Raises UserError for a knob that the entry point does not have.
    """
    path = CONFIGS / "recipes" / f"{name}.yaml"
    recipe: Any = OmegaConf.to_container(OmegaConf.load(path)) or {}
    values = recipe.get(config_name) or {}
    known = {line.key for line in read_knob_table(CONFIGS / f"{config_name}.yaml") if isinstance(line, KnobLine)}
    if unknown := sorted(values.keys() - known):
        raise UserError(f"{path}: {config_name} has no knob {', '.join(unknown)}; see configs/{config_name}.yaml")
    return values


def _resolve(
    config: Any, field: Field, line: KnobLine, overrides: dict[str, str | None], recipe: dict[str, Any]
) -> Any:
    """The checked value of one knob: from the command line, the environment, the recipe, or the YAML."""
    text = overrides.get(line.key, os.environ.get(line.env or "", recipe.get(line.key, line.default)))
    message = f"{line.env or line.key}={text}: expected {_expected(field.type)} ({line.help})"
    try:
        if line.key in overrides:
            config[line.key] = overrides[line.key]
        elif text == "null":  # an environment variable is always text
            config[line.key] = None
        elif line.key in recipe and line.env not in os.environ:
            config[line.key] = recipe[line.key]
        value = config[line.key]
    except OmegaConfBaseException as error:
        raise UserError(message) from error
    if isinstance(value, bool) and str(text).lower() not in SWITCHES:  # OmegaConf takes any number for a bool
        raise UserError(message)
    if field.metadata.get("path") and isinstance(value, str):
        value = _as_path(value, line)
    _check(value, field.metadata, line)
    return value


def _as_path(value: str, line: KnobLine) -> str | None:
    """With `~` expanded and no trailing slash. Raises UserError for an empty name where one is needed."""
    if not value.strip():
        if line.fixed_default == "null":
            return None
        raise UserError(f"{line.env or line.key} is empty: expected {line.help}")
    if value.startswith("~"):
        expanded = os.path.expanduser(value)
        if expanded.startswith("~"):
            raise UserError(f"{line.env or line.key}={value}: there is no such user")
        value = expanded
    return value.rstrip("/") or "/"


def _parse_override(argument: str, table: dict[str, KnobLine], config_name: str) -> tuple[str, str | None]:
    name, equals, value = argument.partition("=")
    by_env = {line.env: line.key for line in table.values() if line.env}
    key = by_env.get(name, name)
    if equals and key in table:
        return key, None if value == "null" else value
    bare = name.lstrip("-").replace("-", "_")
    bare = by_env.get(bare, bare)
    if bare in table:
        raise UserError(
            f"unknown knob {argument!r}: expected key=value, so write {bare}={value if equals else 'VALUE'} "
            "(--help lists all knobs)"
        )
    if flag := difflib.get_close_matches(argument, ["--dry-run", "--help"], n=1, cutoff=0.7):
        raise UserError(f"unknown argument {argument!r}; did you mean {flag[0]}?")
    names = right_names(config_name, bare.upper(), by_env)
    near = [" and ".join(names)] if names else difflib.get_close_matches(bare, [*table, *by_env], n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise UserError(f"unknown knob {argument!r}{hint} (expected key=value; --help lists all knobs)")


def _is_default(value: Any, key: str, line: KnobLine, typed: Any) -> bool:
    """Whether a knob has the value of the YAML. `typed`: the schema's config, which converts the YAML's text."""
    if line.fixed_default == "null":
        return value is None
    typed[key] = line.fixed_default
    return value == typed[key]


def _print_notes(
    config_name: str,
    table: dict[str, KnobLine],
    overrides: dict[str, str | None],
    values: dict[str, Any],
    typed: Any,
) -> None:
    """The knobs that differ from their defaults, with their origin, and variables that are no knobs here.

    RECIPE and what it sets have a line of their own (recipe.print_recipe).
    """
    origins = {}
    for key, line in table.items():
        variable = next((variable for variable in line.variables if variable in os.environ), None)
        if key in overrides:
            origin = "command line"
        elif variable:
            origin = "environment" if variable == line.env else f"environment, {variable}"
        else:
            continue
        if key != "recipe" and not _is_default(values[key], key, line, typed):
            origins[line.env or key] = origin
    line = set_knobs_line({line.env or key: values[key] for key, line in table.items()}, origins)
    known = {variable for line in table.values() for variable in line.variables}
    anywhere = {
        variable
        for path in CONFIGS.glob("*.yaml")
        for line in read_knob_table(path)
        if isinstance(line, KnobLine)
        for variable in line.variables
    }
    for text in ([line] if line else []) + ignored_lines(config_name, known, anywhere):
        print(text)


def _expected(type_: Any) -> str:
    annotation = str(type_)
    for name, description in (("bool", "0 or 1"), ("int", "a whole number"), ("float", "a number")):
        if name in annotation:
            return description
    return "a string"


def _check(value: Any, metadata: Any, line: KnobLine) -> None:
    name = f"{line.env or line.key}={value}"
    choices, ge, gt, le = (metadata.get(name) for name in ("choices", "ge", "gt", "le"))
    if value is None:
        return
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{name}: expected a finite number ({line.help})")
    if choices and value not in choices:
        raise UserError(f"{name}: expected one of {', '.join(map(str, choices))} ({line.help})")
    if ge is not None and value < ge:
        raise UserError(f"{name}: must be at least {ge} ({line.help})")
    if gt is not None and value <= gt:
        raise UserError(f"{name}: must be above {gt} ({line.help})")
    if le is not None and value > le:
        raise UserError(f"{name}: must be at most {le} ({line.help})")
