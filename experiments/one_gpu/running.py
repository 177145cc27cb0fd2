"""One job as a process group with a log of its own, and the record that it leaves when it is done."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Protocol

from experiments.one_gpu.plan import REPOSITORY, Job, Layout, command
from srt.common.files import read_json, write_json

RECORD = "job.json"
SECONDS_BEFORE = "seconds_before.json"
STOP_SECONDS = 60


class NamedJob(Protocol):
    """What a record says of a job of any experiment."""

    @property
    def name(self) -> str: ...

    @property
    def env(self) -> dict[str, str]: ...
    @property
    def inputs(self) -> dict[str, str]: ...


class JobFolders(Protocol):
    def folder(self, job: str, /) -> Path: ...


@dataclass
class RunningJob:
    """A job that was started. `share`: of each of its GPUs; 1 where it has them to itself."""

    job: Any  # a NamedJob
    layout: JobFolders
    gpus: list[str]
    process: subprocess.Popen
    log: IO[str]
    command: list[str]
    started: float
    share: float = 1.0

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    def succeeded(self) -> bool:
        """Closes the log; writes the record of a job that succeeded, and prints how it ended."""
        self.log.close()
        seconds, code = time.monotonic() - self.started, self.process.returncode
        folder = self.layout.folder(self.job.name)
        if code == 0:
            record = {
                "job": self.job.name,
                "command": [Path(part).name if part.startswith("/") else part for part in self.command[:3]],
                "env": self.job.env,
                "inputs": self.job.inputs,
                "gpus": len(self.gpus) * self.share,
                "seconds": round(seconds, 1) + _seconds_before(folder),
                "finished": datetime.now(UTC).isoformat(timespec="seconds"),
                "commit": _commit(),
                "device": _device(),
            }
            write_json(folder / RECORD, record)
        else:
            (folder / SECONDS_BEFORE).write_text(json.dumps(_seconds_before(folder) + seconds), "utf-8")
        print(f"{'done' if code == 0 else f'FAILED ({code})'}: {self.job.name}, {seconds:.0f} s", flush=True)
        return code == 0

    def stop(self) -> None:
        """End the whole process group, kindly first."""
        for kind in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self.process.pid, kind)
                self.process.wait(STOP_SECONDS)
            except ProcessLookupError:
                break
            except subprocess.TimeoutExpired:
                continue
        self.succeeded()


def start(job: Job, jobs: dict[str, Job], layout: Layout, gpus: list[str]) -> RunningJob:
    """Start a job on these GPUs, with its output in job.log (appended to when it continues).

    A job that was done elsewhere and is made again, because its model did not travel, starts in a new folder, and
    so does what was half done with that model, and a job that does not continue.
    """
    outdated = [] if job.continues else [job]
    if record_of(job, layout):
        half_done = [other for other in jobs.values() if job.name in other.needs and not record_of(other, layout)]
        outdated = [job, *half_done]
    for one in outdated:
        keep_aside(layout.folder(one.name))
    arguments, env = command(job, jobs, layout, sys.executable)
    return replace(launch(job, layout, gpus, arguments, env), share=job.share)


def launch(
    job: NamedJob, layout: JobFolders, gpus: list[str], arguments: list[str], env: dict[str, str]
) -> RunningJob:
    """Start this command as the job, with these variables beyond those that are set already."""
    folder = layout.folder(job.name)
    folder.mkdir(parents=True, exist_ok=True)
    log = open(folder / "job.log", "a", encoding="utf-8")
    visible = {"CUDA_VISIBLE_DEVICES": ",".join(gpus)} if gpus != [""] else {}
    print(f"start: {job.name} on GPU {','.join(gpus) or '-'}", flush=True)
    process = subprocess.Popen(
        arguments,
        env=os.environ | env | visible,
        cwd=REPOSITORY,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    return RunningJob(job, layout, gpus, process, log, arguments, time.monotonic())


def keep_aside(folder: Path) -> None:
    """Rename a folder, if it exists, to <name>.before<n>."""
    if folder.exists():
        names = (folder.with_name(f"{folder.name}.before{n}") for n in itertools.count(1))
        folder.rename(next(name for name in names if not name.exists()))


def record_of(job: NamedJob, layout: JobFolders) -> dict[str, Any] | None:
    """The record of a job that ended well; None for one that is open."""
    path = layout.folder(job.name) / RECORD
    return read_json(path) if path.is_file() else None


def is_done(job: Job, layout: Layout) -> bool:
    """A job with a record and, where it makes a model, with that model: an export has only its logs."""
    has_result = not job.makes_model or (Path(layout.checkpoint(job)) / "config.json").is_file()
    return has_result and record_of(job, layout) is not None


def _seconds_before(folder: Path) -> float:
    """The seconds of earlier starts of the job that were ended before it was done."""
    path = folder / SECONDS_BEFORE
    return json.loads(path.read_text("utf-8")) if path.is_file() else 0.0


def _commit() -> str:
    """Of this checkout; COMMIT says it for a copy without git's folder, or with an older one."""
    if commit := os.environ.get("COMMIT"):
        return commit
    found = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=REPOSITORY, capture_output=True, text=True)
    return found.stdout.strip() or "unknown"


def _device() -> str:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
