"""Which step of a run wrote a folder, and where the parts of a run are."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from srt.common.errors import UserError
from srt.common.files import read_json

EVALUATION, COLLECTION, SRT, DISTILLATION, WHOLE = "evaluation", "collection", "srt", "distillation", "run"
SCRIPTS = {
    EVALUATION: "evaluate.sh",
    COLLECTION: "run_srt_data.sh",
    SRT: "sft.sh",
    DISTILLATION: "distill.sh",
}
# Knobs that only one step has, and files that only one step writes; run.json decides where both are there.
_KNOBS = {
    "target_revision_samples": COLLECTION,
    "epochs_stage1": SRT,
    "base_model": SRT,
    "student_model": DISTILLATION,
    "num_samples": EVALUATION,
}
_FILES = {
    "evaluation.json": EVALUATION,
    "metrics.jsonl": DISTILLATION,
    "d_revision.json": COLLECTION,
    "stage1/training_log.json": SRT,
    "stage2/training_log.json": SRT,
}


@dataclass(frozen=True)
class RunFolders:
    """The OUTPUT_DIR of each step of one run, None for those that are not known.

    `evaluation`: of one evaluation, or a folder with one in each subfolder. `label`: a name for people. `others`:
    outputs of a step in the same folder as the one that is named here.
    """

    label: str
    evaluation: Path | None = None
    collection: Path | None = None
    srt: Path | None = None
    distillation: Path | None = None
    others: tuple[Path, ...] = ()


def kind_of(folder: Path) -> str | None:
    """Which step wrote `folder`; WHOLE if its subfolders are of several steps, None if nothing tells."""
    if own := own_kind(folder):
        return own
    kinds = {own_kind(child) for child in _subfolders(folder)} - {None}
    if kinds == {EVALUATION}:
        return EVALUATION  # base/, srt/ and so on: the evaluations of one run
    kinds |= {EVALUATION} if any(has_evaluations(child) for child in _subfolders(folder)) else set()
    return WHOLE if kinds else None


def has_evaluations(folder: Path) -> bool:
    """Its subfolders are evaluations, of the stages of a run or of several models."""
    return any(own_kind(child) == EVALUATION for child in _subfolders(folder))


def check_kind(knob: str, folder: Path) -> None:
    """Raises UserError if `folder`, the value of `knob`, was written by another step than the knob is for."""
    kind = kind_of(folder) if folder.is_dir() else None
    if kind is None or kind == knob.lower():
        return
    if kind == WHOLE and knob.lower() == EVALUATION and has_evaluations(folder):
        return  # beside the other parts
    if kind == WHOLE:
        parts = ", ".join(str(child) for child in _subfolders(folder) if own_kind(child) == knob.lower())
        hint = f"the folder for {knob} is {parts}" if parts else f"none of its folders is for {knob}"
        raise UserError(
            f"{knob}={folder} is the folder of a whole run: {hint}; or bash scripts/report.sh {folder}"
        )
    raise UserError(
        f"{knob}={folder} was written by {SCRIPTS[kind]}, not by {SCRIPTS[knob.lower()]}: set {kind.upper()} to it"
    )


def find_run(folder: Path) -> RunFolders:
    """The parts of the run in `folder`: the output of one step, or a folder that has those of several steps.

    Raises UserError for anything else.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; expected the output of a run")
    run = RunFolders(folder.resolve().name)
    kind = kind_of(folder)
    if kind is None:
        raise UserError(
            f"{folder} is not the output of a run: neither it nor its subfolders have files of "
            f"{', '.join(SCRIPTS.values())}"
        )
    if kind != WHOLE:
        return replace(run, **{kind: folder})
    for child in _subfolders(folder):
        part = EVALUATION if has_evaluations(child) else own_kind(child)
        if part is None:
            continue
        if getattr(run, part) is None:
            run = replace(run, **{part: child})
        else:
            run = replace(run, others=(*run.others, child))
    if run.evaluation is not None and not has_evaluations(run.evaluation):
        # One or several evaluations beside the other parts: all of them are shown.
        others = tuple(other for other in run.others if own_kind(other) != EVALUATION or has_evaluations(other))
        run = replace(run, evaluation=folder, others=others)
    return run


def with_distinct_labels(runs: Iterable[RunFolders], paths: Iterable[Path]) -> list[RunFolders]:
    """Labels made distinct by the part of the paths in which they differ.

    Raises UserError for a run that is named twice: its parts would be shown as one.
    """
    runs, resolved = list(runs), [path.resolve() for path in paths]
    if repeated := [path for path in resolved if resolved.count(path) > 1]:
        raise UserError(f"{repeated[0]} is named twice; name each run once")
    if len({run.label for run in runs}) == len(runs):
        return runs
    common = os.path.commonpath([path.parent for path in resolved])
    labels = [os.path.relpath(path, common) for path in resolved]
    return [replace(run, label=label) for run, label in zip(runs, labels, strict=True)]


def _subfolders(folder: Path) -> Iterator[Path]:
    try:
        yield from sorted(child for child in folder.iterdir() if child.is_dir() and child.name[0] != ".")
    except OSError as error:
        raise UserError(f"{folder}: cannot be read ({error.strerror})") from error


def own_kind(folder: Path) -> str | None:
    """Which step wrote the files that are in `folder` itself."""
    config = _config(folder / "run.json")
    for knob, kind in _KNOBS.items():
        if knob in config:
            return kind
    return next((kind for name, kind in _FILES.items() if (folder / name).is_file()), None)


def _config(path: Path) -> dict[str, Any]:
    """The knobs in a run.json, {} for one that is missing or damaged: reading the parts will say so."""
    try:
        config = read_json(path).get("config") if path.is_file() else None
    except (UserError, AttributeError, OSError):
        return {}
    return config if isinstance(config, dict) else {}
