"""Self-distillation that is stopped in every way, and then started again with the same command."""

import re
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest

from srt.common.files import read_jsonl
from tests.end_to_end.commands import Outcome, interrupt_script, lines_in, run_script, the_error
from tests.end_to_end.conftest import same_weights


def figures(output: Path) -> list[dict]:
    """metrics.jsonl without its clock."""
    lines = read_jsonl(output / "metrics.jsonl")
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


@dataclass(frozen=True)
class Stopped:
    """A distillation that was stopped three times: full disk, Ctrl-C, kill -9 with a synchronised teacher."""

    output: Path
    disk_full: Outcome
    ctrl_c: Outcome
    lines_after_kill: int
    last: Outcome


@pytest.fixture(scope="module")
def stopped(whole_run, tmp_path_factory) -> Stopped:
    output = tmp_path_factory.mktemp("stopped") / "sd_zero"
    metrics = output / "metrics.jsonl"
    config = whole_run.distillation | {"OUTPUT_DIR": output}

    # The weights of a checkpoint (400 KiB) do not fit.
    disk_full = run_script("distill", config, prefix="ulimit -f 200;")
    ctrl_c = interrupt_script(
        "distill", config, signal.SIGINT, lambda: (output / "checkpoints" / "step_000002").exists()
    )
    # Checkpoints come after steps 2, 4, ... and the teacher is synchronised after steps 3, 6, ...
    interrupt_script(
        "distill",
        config,
        signal.SIGKILL,
        lambda: (output / "checkpoints" / "step_000004").exists() and lines_in(metrics) >= 5,
    )
    assert not (output / "student").exists()
    lines_after_kill = lines_in(metrics)
    # What a kill in the middle of a save leaves.
    (output / "checkpoints" / ".step_000006.tmp" / "student").mkdir(parents=True, exist_ok=True)
    return Stopped(output, disk_full, ctrl_c, lines_after_kill, run_script("distill", config))


def test_a_full_disk_ends_in_one_sentence(stopped):
    error = the_error(stopped.disk_full)
    assert "a file could not be written (File too large); free space or change OUTPUT_DIR" in error


def test_ctrl_c_ends_with_130_and_a_sentence(stopped):
    assert stopped.ctrl_c.code == 130
    assert "stopped; the same command continues from here" in stopped.ctrl_c.err
    assert "Traceback" not in stopped.ctrl_c.err


def test_the_last_start_continues_from_the_newest_checkpoint_and_finishes(stopped):
    assert stopped.last.code == 0, stopped.last
    assert re.search(r"continuing after step ([468]) from \S+/checkpoints/step_00000\1\n", stopped.last.out)


def test_the_student_equals_that_of_a_run_that_was_never_stopped(stopped, whole_run):
    assert same_weights(stopped.output / "student", whole_run.folder / "sd_zero" / "student")


def test_every_step_is_in_the_metrics_once_with_the_same_figures(stopped, whole_run):
    assert stopped.lines_after_kill >= 5
    assert figures(stopped.output) == figures(whole_run.folder / "sd_zero")


def test_no_logged_sample_is_there_twice_or_lost(stopped, whole_run):
    reference = read_jsonl(whole_run.folder / "sd_zero" / "samples.jsonl")
    assert read_jsonl(stopped.output / "samples.jsonl") == reference


def test_no_torn_checkpoint_is_left(stopped):
    assert list((stopped.output / "checkpoints").glob(".*")) == []


def test_a_kill_before_the_student_was_written_costs_no_step(whole_run, call, tmp_path):
    output = tmp_path / "sd_zero"
    shutil.copytree(whole_run.folder / "sd_zero", output)
    shutil.rmtree(output / "student")
    (output / ".student.tmp").mkdir()
    again = call("distill", whole_run.distillation | {"OUTPUT_DIR": output})
    assert again.code == 0, again
    assert "continuing after step 10" in again.out
    assert same_weights(output / "student", whole_run.folder / "sd_zero" / "student")
    assert figures(output) == figures(whole_run.folder / "sd_zero")
