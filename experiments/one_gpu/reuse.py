"""What is done in OUTPUT must be what this call would do: the same model, and the same jobs."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from experiments.one_gpu.running import JobFolders, NamedJob, record_of
from srt.common.errors import UserError
from srt.common.files import read_json, write_json
from srt.config_groups import HOW_WORK_IS_SPREAD
from srt.contract.model_identity import model_identity

MODEL = "model.json"
DECIDES_NOTHING = {*(knob.upper() for knob in HOW_WORK_IS_SPREAD), "REPORT_TO", "CHECK_MEMORY"}  # about results


def check_model(output: Path, model: str) -> None:
    """The first run in a folder writes which model it is about. Raises UserError for another one."""
    path, identity = output / MODEL, model_identity(model)
    if not path.is_file():
        write_json(path, {"model": model, "identity": identity}, "OUTPUT")
    elif (begun := read_json(path))["identity"] != identity:
        raise UserError(
            f"{output} is about the model {begun['model']}, and {model} is another one; choose another OUTPUT"
        )


def model_of(output: Path, default: str) -> str:
    """The model that the results in a folder are about; `default` where nothing says."""
    path = output / MODEL
    return read_json(path)["model"] if path.is_file() else default


def check_jobs(jobs: Iterable[NamedJob], layout: JobFolders, timed: bool = False) -> None:
    """Raises UserError for a job that was done with other inputs or knobs than it has now.

    `timed`: knobs that decide about speed alone count, too.
    """
    for job in jobs:
        record = record_of(job, layout)
        if record and (found := _differences(job, record, set() if timed else DECIDES_NOTHING)):
            raise UserError(
                f"{layout.folder(job.name)}: done with {', '.join(found)}; choose another OUTPUT, or delete this "
                "folder and those of all that was made from it"
            )


def _differences(job: NamedJob, record: dict[str, Any], without: set[str]) -> list[str]:
    """As `LR=1e-5 instead of 2e-5`. A record without inputs is of an earlier version."""
    then, now = record["env"] | record.get("inputs", job.inputs), job.env | job.inputs
    return [
        f"{key}={then.get(key, '(not set)')} instead of {now.get(key, '(not set)')}"
        for key in sorted({*then, *now} - without)
        if then.get(key) != now.get(key)
    ]
