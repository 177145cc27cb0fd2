"""What a run left behind, read for its report. No file is changed: the run may still be going on."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from srt.common.errors import UserError
from srt.common.files import parse_jsonl, read_json
from srt.contract.metrics import with_current_names

STAGE_NAMES = {
    "base": "base",
    "stage1": "after stage 1",
    "srt": "after stage 2 (SRT)",
    "sd_zero": "after self-distillation (SD-Zero)",
}


@dataclass(frozen=True)
class Stage:
    """An evaluated model. `figures`: evaluation.json; `run`: the run.json beside it, {} when there is none."""

    key: str
    figures: dict[str, Any]
    run: dict[str, Any]

    @property
    def name(self) -> str:
        return STAGE_NAMES.get(self.key, self.key)


@dataclass
class RunData:
    """`collection`, `srt` and `distillation` are the run.json of each part; what was not found is empty.

    `losses`: (update, loss) of each SFT stage. `steps`: the lines of metrics.jsonl.
    `missing`: what was looked for in vain, each as a few words with its path or knob.
    """

    stages: list[Stage] = field(default_factory=list)
    collection: dict[str, Any] = field(default_factory=dict)
    tuples: list[dict[str, Any]] = field(default_factory=list)
    srt: dict[str, Any] = field(default_factory=dict)
    losses: dict[int, list[tuple[int, float]]] = field(default_factory=dict)
    distillation: dict[str, Any] = field(default_factory=dict)
    steps: list[dict[str, Any]] = field(default_factory=list)
    samples: list[dict[str, Any]] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        return not (self.stages or self.collection or self.tuples or self.losses or self.steps or self.samples)


def read_run(evaluation: str | None, collection: str | None, srt: str | None, distillation: str | None) -> RunData:
    """Read what there is; the arguments are the folders of the four knobs with these names, None where unset.

    Raises UserError for a file that is there but broken.
    """
    run = RunData()
    if folder := _folder("EVALUATION", evaluation, run):
        _read_evaluations(folder, run)
    if folder := _folder("COLLECTION", collection, run):
        run.collection = _json(folder / "run.json", run) or {}
        if run.collection and "results" not in run.collection:
            run.missing.append(f"{folder} is not finished: no figures of the collection")
        run.tuples = _json(folder / "d_revision.json", run) or []
    if folder := _folder("SRT", srt, run):
        run.srt = _json(folder / "run.json", run) or {}
        for stage in (1, 2):
            if log := _json(folder / f"stage{stage}" / "training_log.json", run):
                run.losses[stage] = [(entry["step"], entry["loss"]) for entry in log if "loss" in entry]
    if folder := _folder("DISTILLATION", distillation, run):
        run.distillation = _json(folder / "run.json", run) or {}
        run.steps = [with_current_names(line) for line in _log(folder / "metrics.jsonl", run)]
        run.samples = _log(folder / "samples.jsonl", run)
    return run


def _folder(knob: str, value: str | None, run: RunData) -> Path | None:
    if value is None:
        run.missing.append(f"{knob} is not set")
    elif not Path(value).is_dir():
        run.missing.append(f"{knob}={value} is no folder")
    else:
        return Path(value)
    return None


def _read_evaluations(folder: Path, run: RunData) -> None:
    """The four stages in their order, then others by name; `folder` may also be a single evaluation."""
    if (folder / "evaluation.json").is_file():
        folders = [folder]
    else:
        # A run.json without evaluation.json beside it: an evaluation that is not finished.
        others = {path.parent for name in ("run.json", "evaluation.json") for path in folder.glob(f"*/{name}")}
        named = [folder / key for key in STAGE_NAMES]
        folders = named + sorted(others - set(named))
    for stage_folder in folders:
        path = stage_folder / "evaluation.json"
        if figures := _json(path, run):
            if "avg_at_k" not in figures:
                raise UserError(f"{path}: it has no avg_at_k, so it was not written by evaluate.sh")
            run_path = stage_folder / "run.json"
            stage_run = read_json(run_path) if run_path.is_file() else {}
            run.stages.append(Stage(stage_folder.absolute().name, figures, stage_run))


def _json(path: Path, run: RunData) -> Any | None:
    if path.is_file():
        return read_json(path)
    run.missing.append(f"{path} is missing")
    return None


def _log(path: Path, run: RunData) -> list[dict[str, Any]]:
    """The whole lines of a log; a last line that is being written, or was torn by a crash, is not one of them."""
    data = path.read_bytes() if path.is_file() else b""
    whole = data[: data.rfind(b"\n") + 1]
    if not whole:
        run.missing.append(f"{path} is {'empty' if path.is_file() else 'missing'}")
    return list(parse_jsonl(whole.decode("utf-8"), path))
