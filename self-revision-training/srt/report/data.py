"""The output files of a run, read for its report. Nothing is written: the run may still be in progress."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from srt.collect.config import CHOOSES_TUPLES
from srt.common.errors import UserError
from srt.common.files import read_json
from srt.contract.metrics import AVG_AT_K, with_current_names
from srt.report.attempts import Attempts, read_attempts
from srt.report.charts import is_number
from srt.report.folders import EVALUATION, RunFolders, check_kind, own_kind

STAGE_NAMES = {
    "base": "base",
    "stage1": "after stage 1",
    "srt": "after stage 2 (SRT)",
    "sd_zero": "after self-distillation (SD-Zero)",
}
SHORT_NAMES = {"base": "base", "stage1": "stage 1", "srt": "SRT", "sd_zero": "SD-Zero"}
Line = dict[str, Any]


@dataclass(frozen=True)
class EvaluatedStage:
    """One evaluated model. `metrics`: its evaluation.json; `run`: the run.json beside it, {} if there is none.

    `run_label`: of the run it belongs to, empty where a report has only one.
    """

    key: str
    metrics: Line
    run: Line
    attempts: Attempts = field(default_factory=Attempts)
    run_label: str = ""

    @property
    def name(self) -> str:
        return self._with_run(STAGE_NAMES.get(self.key, self.key))

    @property
    def short_name(self) -> str:
        return self._with_run(SHORT_NAMES.get(self.key, self.key))

    def _with_run(self, name: str) -> str:
        return f"{self.run_label}: {name}" if self.run_label else name


@dataclass(frozen=True)
class RunData:
    """All parts of a run; those that are missing are empty.

    `collection`, `srt` and `distillation`: the run.json of each part. `sft_logs`: SFT stage -> its
    training_log.json. `steps`: the lines of metrics.jsonl. `missing`: one phrase per missing input, with its path
    or knob.
    """

    label: str
    stages: list[EvaluatedStage]
    collection: Line
    tuples: list[Line]
    attempts: Attempts
    srt: Line
    sft_logs: dict[int, list[Line]]
    distillation: Line
    steps: list[Line]
    validations: list[Line]
    samples: list[Line]
    warnings: list[Line]
    teacher_syncs: list[Line]
    missing: list[str]

    @property
    def is_empty(self) -> bool:
        return not (
            self.stages
            or self.collection
            or self.tuples
            or self.attempts.responses
            or self.sft_logs
            or self.steps
            or self.samples
        )

    @property
    def in_progress(self) -> bool:
        """Phase 2 has begun and has not ended."""
        return bool(self.distillation) and "results" not in self.distillation


def record_of(part: Line, name: str) -> Line:
    """The object `name` of a run.json; {} if it has none, or something else under that name."""
    value = part.get(name)
    return value if isinstance(value, dict) else {}


def _with_last_choice(collection: Line) -> Line:
    """The run.json of a collection, where the config says how its tuples were chosen at last."""
    config, results = record_of(collection, "config"), record_of(collection, "results")
    chosen = {name: results[name] for name in CHOOSES_TUPLES if name in results}
    return collection | {"config": config | chosen} if chosen else collection


def read_run(folders: RunFolders, browse: int = 0) -> RunData:
    """Read whatever exists. browse: how many attempts of the collection, and problems of each evaluation, to keep.

    Raises UserError for a broken file, and for a folder that another step wrote.
    """
    reader = _Reader()
    stages: list[EvaluatedStage] = []
    if folder := reader.folder("EVALUATION", folders.evaluation):
        stages = reader.evaluations(folder, browse)

    collection_run, tuples, attempts = {}, [], Attempts()
    if folder := reader.folder("COLLECTION", folders.collection):
        collection_run = _with_last_choice(reader.record(folder / "run.json"))
        if collection_run and "results" not in collection_run:
            reader.missing.append(f"{folder} is not finished: no metrics of the collection")
        tuples = reader.list_of_records(folder / "d_revision.json")
        if browse:
            attempts = read_attempts(folder / "attempts.jsonl", reader.missing)

    srt_run, sft_logs = {}, {}
    if folder := reader.folder("SRT", folders.srt):
        srt_run = reader.record(folder / "run.json")
        for stage in (1, 2):
            if log := reader.training_log(folder, stage):
                sft_logs[stage] = log

    distillation_run: Line = {}
    logs: dict[str, list[Line]] = {name: [] for name in _CHECKS}
    if folder := reader.folder("DISTILLATION", folders.distillation):
        distillation_run = reader.record(folder / "run.json")
        logs = {name: reader.log(folder / f"{name}.jsonl", _CHECKS[name], name in _OPTIONAL) for name in logs}
    reader.missing += [f"{other}: another output of that step is shown" for other in folders.others]
    return RunData(
        folders.label,
        stages,
        collection_run,
        tuples,
        attempts,
        srt_run,
        sft_logs,
        distillation_run,
        [with_current_names(line) for line in logs["metrics"]],
        logs["validation"],
        logs["samples"],
        logs["warnings"],
        logs["teacher_sync"],
        reader.missing,
    )


def _is_comparison(evaluation: Line) -> bool:
    """An evaluation.json that compares several models, each of which has its own in a subfolder."""
    return "models" in evaluation


def _is_step(line: Line) -> bool:
    return isinstance(line.get("step"), int)


def _is_sample(line: Line) -> bool:
    tokens, kl = line.get("tokens"), line.get("kl")
    if not (isinstance(tokens, list) and isinstance(kl, list) and len(tokens) == len(kl) > 0):
        return False
    is_whole = _is_step(line) and {"id", "x", "r", "p_r"} <= line.keys()
    return is_whole and all(value is None or is_number(value) for value in kl)


_CHECKS: dict[str, Callable[[Line], bool]] = {
    "metrics": _is_step,
    "validation": _is_step,
    "samples": _is_sample,
    "warnings": lambda line: _is_step(line) and "warning" in line,
    "teacher_sync": lambda line: _is_step(line) and "synced" in line,
}
_OPTIONAL = ("warnings", "teacher_sync")  # logs that not every run has


class _Reader:
    """Reads files and folders, and notes in `missing` those that do not exist and lines that are damaged."""

    def __init__(self) -> None:
        self.missing: list[str] = []

    def folder(self, knob: str, value: Path | None) -> Path | None:
        if value is None:
            self.missing.append(f"{knob} is not set")
        elif not value.is_dir():
            self.missing.append(f"{knob}={value} is not a folder")
        else:
            check_kind(knob, value)
            return value
        return None

    def json(self, path: Path) -> Any | None:
        if path.is_file():
            return read_json(path)
        self.missing.append(f"{path} is missing")
        return None

    def record(self, path: Path) -> Line:
        """A JSON object; {} if it is missing."""
        value = self.json(path)
        if path.is_file() and not isinstance(value, dict):
            raise UserError(f"{path}: expected a JSON object, found {value!r:.40}")
        return value or {}

    def list_of_records(self, path: Path) -> list[Line]:
        value = self.json(path)
        if path.is_file() and not (isinstance(value, list) and all(isinstance(item, dict) for item in value)):
            raise UserError(f"{path}: expected a JSON list of objects, found {value!r:.40}")
        return value or []

    def training_log(self, folder: Path, stage: int) -> list[Line]:
        """Of a finished stage; else what the newest checkpoint of the stage in progress holds."""
        states = (folder / f"stage{stage}.work").glob("checkpoint-*/trainer_state.json")
        newest = max(states, key=lambda path: int(path.parent.name.rpartition("-")[2]), default=None)
        finished = folder / f"stage{stage}" / "training_log.json"
        if finished.is_file() or newest is None:
            return self.list_of_records(finished)
        self.missing.append(f"{folder}: stage {stage} is not finished; its curve ends at the newest checkpoint")
        history = self.record(newest).get("log_history")
        return [line for line in history if isinstance(line, dict)] if isinstance(history, list) else []

    def log(self, path: Path, check: Callable[[Line], bool], optional: bool = False) -> list[Line]:
        """The whole lines of a log that pass `check`, without a last one that is being written.

        Damaged lines are left out and counted in `missing`. optional: a log that not every run has.
        """
        data = path.read_bytes() if path.is_file() else b""
        complete = data[: data.rfind(b"\n") + 1]
        if not complete and not optional:
            self.missing.append(f"{path} is {'empty' if path.is_file() else 'missing'}")
        entries, damaged = [], []
        for number, line in enumerate(complete.split(b"\n"), start=1):
            if not line.strip():
                continue
            entry = _parse(line)
            if entry is not None and check(entry):
                entries.append(entry)
            else:
                damaged.append(number)
        if damaged:
            lines = f"line {damaged[0]} is" if len(damaged) == 1 else f"{len(damaged)} lines are"
            self.missing.append(f"{path}: {lines} damaged and left out (the first: line {damaged[0]})")
        return entries

    def evaluations(self, folder: Path, browse: int) -> list[EvaluatedStage]:
        """The four stages in their order, then others by name; `folder` may also be a single evaluation."""
        single = folder / "evaluation.json"
        if single.is_file() and not _is_comparison(self.record(single)):
            folders = [folder]
        else:
            # A folder with run.json alone is an evaluation that is not finished. Other steps' may stand beside it.
            existing = {
                path.parent
                for name in ("run.json", "evaluation.json")
                for path in folder.glob(f"*/{name}")
                if own_kind(path.parent) in (EVALUATION, None)
            }
            expected = [folder / key for key in STAGE_NAMES]
            folders = expected + sorted(existing - set(expected))
        stages = []
        for stage_folder in folders:
            path = stage_folder / "evaluation.json"
            metrics = self.record(path)
            if metrics and not _is_comparison(metrics):
                if not is_number(metrics.get(AVG_AT_K)):
                    raise UserError(f"{path}: no {AVG_AT_K}, so it was not written by evaluate.sh")
                run_path = stage_folder / "run.json"
                run = self.record(run_path) if run_path.is_file() else {}
                log = stage_folder / "attempts.jsonl"
                attempts = read_attempts(log, self.missing) if browse and log.is_file() else Attempts()
                stages.append(EvaluatedStage(stage_folder.absolute().name, metrics, run, attempts))
        return stages


def _parse(line: bytes) -> Line | None:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):  # also of bytes that are not UTF-8
        return None
    return entry if isinstance(entry, dict) else None
