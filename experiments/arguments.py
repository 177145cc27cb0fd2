"""What the commands and plans of these experiments are given, and what they refuse."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from srt.common.errors import UserError
from srt.config import CONFIGS, KnobLine, read_knob_table

OF_THE_MACHINE = ("MASTER_PORT", "TRUST_REMOTE_CODE", "WORKER_LOGS")  # knobs that a plan leaves to the user


def refuse_options(arguments: Iterable[str], usage: str | None) -> None:
    """Raises UserError for an argument with --, unknown or, where `usage` has it, not expected with the others."""
    for argument in arguments:
        if argument.startswith("--"):
            what = "unexpected" if argument in (usage or "").split() else "unknown"
            raise UserError(f"{what} argument '{argument}'; --help shows how to run this script")


def number(name: str, default: float) -> float:
    """The environment variable, or `default` where it is not set or empty. Raises UserError for no number."""
    text = os.environ.get(name) or str(default)
    try:
        return float(text)
    except ValueError:
        raise UserError(f"{name}={text}: expected a number") from None


def read_yaml_mapping(path: Path) -> dict[str, Any]:
    """The content of a plan. Raises UserError for anything else than a mapping."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path}: cannot be read as YAML ({' '.join(str(error).split())}); change PLAN") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a mapping, found {type(content).__name__}; change PLAN")
    return content


def known_knobs(script: str) -> set[str]:
    """The environment variables of a script in scripts/, without its ending."""
    lines = read_knob_table(CONFIGS / f"{script.removeprefix('run_')}.yaml")
    return {variable for line in lines if isinstance(line, KnobLine) for variable in line.variables}


def refuse_unknown_knobs(path: Path, job: str, env: Iterable[str], known: set[str]) -> None:
    """Raises UserError for a knob of a plan that would have no effect on the job."""
    if unknown := sorted(set(env) - known):
        raise UserError(f"{path}, job {job}: it has no knob {', '.join(unknown)}; its script's --help lists them")


def let_the_plan_decide(scripts: Iterable[str], kept: Iterable[str]) -> None:
    """Takes the knobs of these scripts out of the environment, which jobs inherit and no record of theirs has.

    `kept`: knobs that decide about no result. The others are named in a note.
    """
    knobs = {name for script in scripts for name in known_knobs(script)} - {*kept, *OF_THE_MACHINE}
    found = sorted(knobs & set(os.environ))
    for name in found:
        del os.environ[name]
    if said := [name for name in found if name not in ("MODEL_PATH", "SEED")]:
        print(f"note: not taken from the environment, the plan decides about them: {', '.join(said)}", flush=True)
