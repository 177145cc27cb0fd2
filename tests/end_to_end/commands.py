"""Runs the shell scripts as subprocesses, as users do, and reads what they printed."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from srt.config import CONFIGS, KnobLine, read_knob_table

REPOSITORY = Path(__file__).resolve().parents[2]
ENTRY_POINTS = {
    "collect": "self-revision-training/self_critique_pipeline.py",
    "prepare": "self-revision-training/prepare_data.py",
    "sft": "self-revision-training/sft.py",
    "evaluate": "self-revision-training/evaluate.py",
    "report": "self-revision-training/report.py",
    "distill": "self-distillation/run_distillation.py",
    "localize": "self-distillation/localize.py",
}
KNOB_VARIABLES = {
    line.env
    for path in CONFIGS.glob("*.yaml")
    for line in read_knob_table(path)
    if isinstance(line, KnobLine) and line.env
}
Knobs = dict[str, object]


@dataclass(frozen=True)
class Outcome:
    """A command's exit code and output."""

    code: int
    out: str
    err: str


def environment(config: Knobs) -> dict[str, str]:
    """The current environment with these knobs only, and one thread, so that sums round alike in every process."""
    kept = {name: value for name, value in os.environ.items() if name not in KNOB_VARIABLES}
    fixed = {
        "VIRTUAL_ENV": sys.prefix,
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "passive",
        "HF_HUB_OFFLINE": "1",
        "PYTHONUNBUFFERED": "1",
    }
    return kept | fixed | {name: str(value) for name, value in config.items()}


def run_script(name: str, config: Knobs, *arguments: str, prefix: str = "") -> Outcome:
    """Runs `bash scripts/<name>.sh` to the end. `prefix`: shell commands to run first, such as `ulimit`."""
    script = REPOSITORY / "scripts" / f"{name}.sh"
    done = subprocess.run(
        ["bash", "-c", f'{prefix} exec bash "$0" "$@"', script, *arguments],
        env=environment(config),
        capture_output=True,
        text=True,
        timeout=300,
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


def interrupt_script(name: str, config: Knobs, signal_number: int, when: Callable[[], bool]) -> Outcome:
    """Starts a script and, as soon as `when()` is true, sends a signal to it and to every process it started.

    Fails if the script exits first.
    """
    script = REPOSITORY / "scripts" / f"{name}.sh"
    process = subprocess.Popen(
        ["bash", script],
        env=environment(config),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # puts it in a new process group
        # In a shell's background job SIGINT is ignored, and subprocesses inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        while not when():
            assert process.poll() is None, f"{name} ended before it was interrupted: {process.communicate()}"
            time.sleep(0.005)
        os.killpg(process.pid, signal_number)
        out, err = process.communicate(timeout=120)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return Outcome(process.returncode, out, err)


def count_lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def the_error(outcome: Outcome) -> str:
    """The single `error: ` line with which a failed command must end."""
    assert outcome.code == 2, outcome
    assert "Traceback" not in outcome.err, outcome.err
    lines = [line for line in outcome.err.replace("\r", "\n").splitlines() if line.strip()]
    assert [line.startswith("error: ") for line in lines].count(True) == 1, outcome.err
    assert lines[-1].startswith("error: "), outcome.err
    return lines[-1]
