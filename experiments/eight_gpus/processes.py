"""distill.sh as a process that is killed in the middle of a step, and what is left of it."""

import subprocess
import time
from pathlib import Path

import psutil

from srt.common.errors import UserError
from srt.common.files import read_jsonl

POLL_SECONDS = 0.2
LAST_SECONDS = 120  # at most, that killed processes are waited for: the driver frees GPU memory when they end


def start(command: list[str], env: dict[str, str], log: Path) -> subprocess.Popen:
    """In this process group, so that whoever ends it ends the command too; all output goes into `log`."""
    with open(log, "w", encoding="utf-8") as output:
        streams = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": subprocess.STDOUT}
        return subprocess.Popen(command, env=env, **streams)


def wait_for_step(process: subprocess.Popen, output: Path, steps: int, log: Path) -> None:
    """Returns once that many steps are logged and the checkpoint after them is complete.

    Raises UserError when the process ends before.
    """
    while finished_steps(output) < steps or newest_checkpoint(output) < steps:
        if process.poll() is not None:
            raise UserError(f"it ended with code {process.returncode} before step {steps}: {last_line(log)}")
        time.sleep(POLL_SECONDS)


def finished_steps(output: Path) -> int:
    path = output / "metrics.jsonl"
    return len(read_jsonl(path)) if path.is_file() else 0


def newest_checkpoint(output: Path) -> int:
    """The step of the newest complete checkpoint, of either engine; 0 without one."""
    names = [path.name.removeprefix("step_") for path in (output / "checkpoints").glob("step_*")]
    return max((int(name) for name in names if name.isdecimal()), default=0)


def kill(process: subprocess.Popen) -> None:
    """kill -9 of the process and all that it started; returns when they have ended."""
    alive = descendants(process)
    for one in alive:
        try:
            one.kill()
        except psutil.NoSuchProcess:
            continue
    process.wait()
    psutil.wait_procs(alive, timeout=LAST_SECONDS)


def descendants(process: subprocess.Popen) -> list[psutil.Process]:
    """The process itself, if it still runs, and all that it started."""
    try:
        parent = psutil.Process(process.pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def last_line(log: Path) -> str:
    lines = [line for line in log.read_text("utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "no output"


def require(condition: bool, what: str) -> None:
    """Raises UserError for an outcome that is not what the job is about."""
    if not condition:
        raise UserError(what)
