"""Where a run came from, on the page: models, data, settings, seeds, commits, phrases and packages."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from srt.contract.hardware import describe_hardware
from srt.contract.paths import DEFAULT_DATASETS
from srt.knob_notes import shown_value
from srt.report.data import RunData, record_of
from srt.report.html import Html, element, join

# The settings that matter most, by the names of their knobs.
SETTINGS = (
    "num_responses",
    "num_revisions",
    "revise_correct",
    "right_share",
    "num_samples",
    "epochs_stage1",
    "epochs_stage2",
    "lr_stage1",
    "lr_stage2",
    "tuples_per_update",
    "kl_type",
    "topk",
    "teacher_sync",
    "teacher_sync_steps",
    "num_prompts_per_step",
    "lr",
    "lr_schedule",
    "temperature",
    "top_p",
    "max_tokens",
    "max_total_sequence_length",
)


def provenance(run: RunData) -> list[Html]:
    """The parts that have a run.json, then control phrases and packages; empty if no part has one."""
    runs = _runs(run)
    if not runs:
        return []
    return [element("dl", *_parts(runs), class_="provenance"), *_phrases(runs), *_hardware(runs), *_packages(runs)]


def _runs(run: RunData) -> dict[str, dict[str, Any]]:
    """The run.json of every part that has one, by the name of the part."""
    parts = {"collection": run.collection, "SFT": run.srt, "self-distillation": run.distillation}
    parts |= {f"evaluation, {stage.name}": stage.run for stage in run.stages}
    return {name: part for name, part in parts.items() if part}


def _parts(runs: dict[str, dict[str, Any]]) -> Iterator[Html]:
    """One entry per part; parts that differ only in the model, such as the evaluations, share one."""
    terms_by_facts: dict[tuple[str, ...], list[Html]] = {}
    for name, part in runs.items():
        config = record_of(part, "config")
        model = config.get("model_path") or config.get("base_model") or config.get("student_model")
        facts = (
            _data(config),
            *_recipe(config),
            _settings(config),
            f"seed {config.get('seed')}",
            f"git {_short(str(part.get('git_commit')))}",
        )
        term = element("dt", element("strong", name), f": {model}", element("span", _when(part), class_="soft"))
        terms_by_facts.setdefault(facts, []).append(term)
    for facts, terms in terms_by_facts.items():
        yield join(*terms, element("dd", "; ".join(facts)))


def _data(config: dict[str, Any]) -> str:
    if "base_model" in config:
        return (
            f"stage files {config['data_prefix']}"
            if config.get("data_prefix")
            else "the default stage files of the model"
        )
    default = DEFAULT_DATASETS.get(str(config.get("mode")), ("unknown data", None))[0]
    return str(config.get("dataset") or config.get("train_dataset") or default)


def _recipe(config: dict[str, Any]) -> Iterator[str]:
    if recipe := record_of(config, "recipe"):
        changes = [f"{name}={shown_value(value)}" for name, value in record_of(recipe, "overridden").items()]
        yield f"recipe {recipe.get('name')}" + (f" with {', '.join(changes)}" if changes else "")


def _settings(config: dict[str, Any]) -> str:
    return ", ".join(f"{name}={shown_value(config[name])}" for name in SETTINGS if name in config)


def _when(part: dict[str, Any]) -> str:
    """When a part started, and how long it took, as far as its run.json says."""
    started, finished = _time(part.get("started")), _time(part.get("finished"))
    if started is None:
        return ""
    took = f", finished {finished:%Y-%m-%d %H:%M}" if finished else ""
    return f", started {started:%Y-%m-%d %H:%M} UTC{took}"


def _time(text: object) -> datetime | None:
    try:
        return datetime.fromisoformat(str(text))
    except ValueError:
        return None


def _hardware(runs: dict[str, dict[str, Any]]) -> Iterator[Html]:
    """One line per machine; none for runs of version 0.2 and before."""
    parts_by_machine: dict[str, list[str]] = {}
    for name, part in runs.items():
        if isinstance(record := part.get("hardware"), dict):
            parts_by_machine.setdefault(describe_hardware(record), []).append(name)
    for machine, names in parts_by_machine.items():
        where = "" if len(parts_by_machine) == 1 else f" ({', '.join(names)})"
        yield element("p", f"Hardware{where}: {machine}", class_="soft")


def _short(commit: str) -> str:
    sha, plus, changes = commit.partition("+")
    return sha[:12] + plus + changes


def _phrases(runs: dict[str, dict[str, Any]]) -> Iterator[Html]:
    """One line per set of control phrases; more than one set in a run is suspicious."""
    parts_by_set: dict[tuple[str, str, str], list[str]] = {}
    for name, part in runs.items():
        phrases = record_of(record_of(part, "identity"), "control_phrases")
        if {"name", "0", "1"} <= phrases.keys():
            key = (str(phrases["name"]), str(phrases["0"]), str(phrases["1"]))
            parts_by_set.setdefault(key, []).append(name)
    for (set_name, after_wrong, after_correct), names in parts_by_set.items():
        where = "" if len(parts_by_set) == 1 else f" ({', '.join(names)})"
        yield element(
            "p",
            f"Control phrases, set {set_name}{where}: after a wrong response ",
            element("em", after_wrong),
            " and after a correct one ",
            element("em", after_correct),
        )


def _packages(runs: dict[str, dict[str, Any]]) -> Iterator[Html]:
    parts_by_versions: dict[str, list[str]] = {}
    for name, part in runs.items():
        versions = ", ".join(f"{package} {version}" for package, version in record_of(part, "packages").items())
        parts_by_versions.setdefault(versions, []).append(name)
    for versions, names in parts_by_versions.items():
        where = "" if len(parts_by_versions) == 1 else f" ({', '.join(names)})"
        yield element("p", f"Packages{where}: {versions}", class_="soft")
