"""A plan's YAML, over that of the plan which it extends; plan.yaml says what its keys mean."""

from pathlib import Path
from typing import Any

from experiments.arguments import read_yaml_mapping
from srt.common.errors import UserError

Plan = dict[str, Any]
KEYS = {"problems", "knobs", "jobs"}
KEYS_OVER_A_BASE = KEYS | {"extends", "keep"}


def read_plan(path: Path, extending: tuple[Path, ...] = ()) -> Plan:
    """The whole plan, of its own and of what it extends. `extending`: the plans that led here, each by `extends`.

    Raises UserError for a missing or circular base, and for what a plan changes or keeps that is not there.
    """
    path = path.resolve()
    if not path.is_file():
        why = f"{extending[-1]} extends it" if extending else "change PLAN"
        raise UserError(f"{path}: no such file; {why}")
    if path in extending:
        circle = " -> ".join(plan.name for plan in (*extending, path))
        raise UserError(f"{path}: it extends itself ({circle}); remove one `extends`")
    own = read_yaml_mapping(path)
    keys = KEYS_OVER_A_BASE if "extends" in own else KEYS
    if unknown := set(own) - keys:
        raise UserError(f"{path}: unknown key {', '.join(sorted(unknown))}, expected {', '.join(sorted(keys))}")
    for name, entry in own.get("jobs", {}).items():
        if not isinstance(entry, dict):
            raise UserError(f"{path}, job {name}: expected a mapping such as {{run: sft, data: collect}}")
    if "extends" not in own:
        return {"knobs": {}, "jobs": {}} | own
    base = read_plan(path.parent / own["extends"], (*extending, path))
    jobs = {}
    for name in own.get("keep", base["jobs"]):
        if name not in base["jobs"]:
            raise UserError(f"{path}: it keeps {name}, which is no job of {own['extends']}")
        jobs[name] = base["jobs"][name]
    for name, entry in own.get("jobs", {}).items():
        if "run" not in entry and name not in jobs:
            raise UserError(f"{path}, job {name}: it has no `run`, and there is no such job to change")
        jobs[name] = entry if "run" in entry else _over(jobs[name], entry)
    settings = {key: own[key] for key in ("problems", "knobs") if key in own}
    return _over(base, settings) | {"jobs": jobs}


def _over(base: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """`base` with the values of `own`; mappings are merged."""
    merged = {
        key: _over(base[key], value) if isinstance(value, dict) and isinstance(base.get(key), dict) else value
        for key, value in own.items()
    }
    return base | merged
