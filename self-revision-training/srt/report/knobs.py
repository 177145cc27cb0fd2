"""The knobs in which several runs differ, part by part."""

from collections.abc import Iterator, Sequence
from typing import Any

from srt.report.data import RunData, record_of
from srt.report.html import Html, element, join, table

# Where a run is, rather than what it does; models and datasets count by what their paths end with.
PLACES = ("output_dir", "train_data_dir", "worker_logs", "master_port")
ADDED = ("prompt_probe",)
PATHS = ("model_path", "base_model", "student_model", "teacher_model", "dataset", "train_dataset", "val_dataset")
PARTS = {"collection": "run_srt_data.sh", "srt": "sft.sh", "distillation": "distill.sh"}


def differing_knobs(runs: Sequence[RunData]) -> list[list[str]]:
    """[script, knob, value in each run] for the parts that at least two runs have; "-" where a run lacks the part.

    Knobs that a run does not know, being of another version, are not among them: see `unknown_knobs`.
    """
    rows = []
    for script, configs in _configs(runs):
        for name in dict.fromkeys(name for config in configs for name in config):
            values = [_shown(name, config) for config in configs if name in config]
            if name not in PLACES and len(values) == sum(map(bool, configs)) and len(set(values)) > 1:
                rows.append([script, name, *(_shown(name, config) if config else "-" for config in configs)])
    return rows


def unknown_knobs(runs: Sequence[RunData]) -> dict[str, list[str]]:
    """Script -> knobs that only some of the runs with that part have: these are of different versions."""
    unknown = {}
    for script, configs in _configs(runs):
        present = [config for config in configs if config]
        names = dict.fromkeys(name for config in present for name in config)
        if some := [name for name in names if not all(name in config for config in present)]:
            unknown[script] = some
    return unknown


def knob_table(runs: Sequence[RunData]) -> Html:
    rows = differing_knobs(runs)
    if rows:
        headings = ["knob", "script", *(run.label for run in runs)]
        table_rows = [[name, script, *values] for script, name, *values in rows]
        parts = [table([headings, *table_rows], class_="prose")]
    else:
        parts = [element("p", "The runs have the same knobs in every part that they share.")]
    if unknown := unknown_knobs(runs):
        listed = "; ".join(f"{script}: {', '.join(names)}" for script, names in unknown.items())
        text = f"The runs are of different versions. Knobs that only some of them have: {listed}."
        parts.append(element("p", text, class_="soft"))
    return join(*parts)


def _configs(runs: Sequence[RunData]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The knobs of each run in each part that at least two runs have; {} for a run without it."""
    for part, script in PARTS.items():
        configs = [_knobs(getattr(run, part)) for run in runs]
        if sum(map(bool, configs)) > 1:
            yield script, configs


def _knobs(part: dict[str, Any]) -> dict[str, Any]:
    """Those of a run.json, without what a run adds to them for its own use."""
    return {name: value for name, value in record_of(part, "config").items() if name not in ADDED}


def _shown(name: str, config: dict[str, Any]) -> str:
    value = config.get(name, "-")
    if name in PATHS and isinstance(value, str):
        return "/".join(value.rstrip("/").split("/")[-2:])
    if name == "recipe" and isinstance(value, dict):
        return str(value.get("name"))
    return "-" if value is None else str(value)
