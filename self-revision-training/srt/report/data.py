"""The output files of a run, read for its report. Nothing is written: the run may still be in progress."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from srt.common.errors import UserError
from srt.common.files import parse_jsonl, read_json
from srt.contract.metrics import AVG_AT_K, with_current_names

STAGE_NAMES = {
    "base": "base",
    "stage1": "after stage 1",
    "srt": "after stage 2 (SRT)",
    "sd_zero": "after self-distillation (SD-Zero)",
}


@dataclass(frozen=True)
class EvaluatedStage:
    """One evaluated model. `metrics`: its evaluation.json; `run`: the run.json beside it, {} if there is none."""

    key: str
    metrics: dict[str, Any]
    run: dict[str, Any]

    @property
    def name(self) -> str:
        return STAGE_NAMES.get(self.key, self.key)


@dataclass(frozen=True)
class RunData:
    """All parts of a run; those that are missing are empty.

    `collection`, `srt` and `distillation`: the run.json of each part. `losses`: SFT stage -> (update, loss) pairs.
    `steps`: the lines of metrics.jsonl. `missing`: one phrase per missing input, with its path or knob.
    """

    stages: list[EvaluatedStage]
    collection: dict[str, Any]
    tuples: list[dict[str, Any]]
    srt: dict[str, Any]
    losses: dict[int, list[tuple[int, float]]]
    distillation: dict[str, Any]
    steps: list[dict[str, Any]]
    samples: list[dict[str, Any]]
    missing: list[str]

    @property
    def is_empty(self) -> bool:
        return not (self.stages or self.collection or self.tuples or self.losses or self.steps or self.samples)


def read_run(evaluation: str | None, collection: str | None, srt: str | None, distillation: str | None) -> RunData:
    """Read whatever exists. The arguments are the folders of the four knobs of these names, None if unset.

    Raises UserError for a broken file.
    """
    reader = _Reader()
    stages: list[EvaluatedStage] = []
    if folder := reader.folder("EVALUATION", evaluation):
        stages = reader.evaluations(folder)

    collection_run, tuples = {}, []
    if folder := reader.folder("COLLECTION", collection):
        collection_run = reader.json(folder / "run.json") or {}
        if collection_run and "results" not in collection_run:
            reader.missing.append(f"{folder} is not finished: no metrics of the collection")
        tuples = reader.json(folder / "d_revision.json") or []

    srt_run, losses = {}, {}
    if folder := reader.folder("SRT", srt):
        srt_run = reader.json(folder / "run.json") or {}
        for stage in (1, 2):
            if log := reader.json(folder / f"stage{stage}" / "training_log.json"):
                losses[stage] = [(entry["step"], entry["loss"]) for entry in log if "loss" in entry]

    distillation_run, steps, samples = {}, [], []
    if folder := reader.folder("DISTILLATION", distillation):
        distillation_run = reader.json(folder / "run.json") or {}
        steps = [with_current_names(line) for line in reader.log(folder / "metrics.jsonl")]
        samples = reader.log(folder / "samples.jsonl")
    return RunData(
        stages, collection_run, tuples, srt_run, losses, distillation_run, steps, samples, reader.missing
    )


class _Reader:
    """Reads files and folders, and notes in `missing` those that do not exist."""

    def __init__(self) -> None:
        self.missing: list[str] = []

    def folder(self, knob: str, value: str | None) -> Path | None:
        if value is None:
            self.missing.append(f"{knob} is not set")
        elif not Path(value).is_dir():
            self.missing.append(f"{knob}={value} is not a folder")
        else:
            return Path(value)
        return None

    def json(self, path: Path) -> Any | None:
        if path.is_file():
            return read_json(path)
        self.missing.append(f"{path} is missing")
        return None

    def log(self, path: Path) -> list[dict[str, Any]]:
        """The complete lines of a log, without a last line that is being written or was torn by a crash."""
        data = path.read_bytes() if path.is_file() else b""
        complete = data[: data.rfind(b"\n") + 1]
        if not complete:
            self.missing.append(f"{path} is {'empty' if path.is_file() else 'missing'}")
        return list(parse_jsonl(complete.decode("utf-8"), path))

    def evaluations(self, folder: Path) -> list[EvaluatedStage]:
        """The four stages in their order, then others by name; `folder` may also be a single evaluation."""
        single = folder / "evaluation.json"
        if single.is_file() and "models" not in read_json(single):  # that of several has their comparison
            folders = [folder]
        else:
            # A folder with run.json alone is an evaluation that is not finished.
            existing = {
                path.parent for name in ("run.json", "evaluation.json") for path in folder.glob(f"*/{name}")
            }
            expected = [folder / key for key in STAGE_NAMES]
            folders = expected + sorted(existing - set(expected))
        stages = []
        for stage_folder in folders:
            path = stage_folder / "evaluation.json"
            if metrics := self.json(path):
                if AVG_AT_K not in metrics:
                    raise UserError(f"{path}: no {AVG_AT_K}, so it was not written by evaluate.sh")
                run_path = stage_folder / "run.json"
                run = read_json(run_path) if run_path.is_file() else {}
                stages.append(EvaluatedStage(stage_folder.absolute().name, metrics, run))
        return stages
