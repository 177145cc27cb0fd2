"""Self-distillation interrupted in several ways, then rerun with the same command."""

import re
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest

from srt.common.files import read_jsonl
from tests.end_to_end.commands import Outcome, count_lines, interrupt_script, run_script, the_error
from tests.end_to_end.conftest import same_weights


def metrics_of(output: Path) -> list[dict]:
    """metrics.jsonl without timings."""
    lines = read_jsonl(output / "metrics.jsonl")
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


@dataclass(frozen=True)
class Interrupted:
    """A run interrupted three times: full disk, Ctrl-C, and kill -9 after the teacher was synchronized."""

    output: Path
    disk_full: Outcome
    ctrl_c: Outcome
    lines_after_kill: int
    last: Outcome


@pytest.fixture(scope="module")
def interrupted(full_run, tmp_path_factory) -> Interrupted:
    output = tmp_path_factory.mktemp("interrupted") / "sd_zero"
    metrics = output / "metrics.jsonl"
    config = full_run.distillation | {"OUTPUT_DIR": output}

    # A checkpoint's weights (400 KiB) exceed this limit.
    disk_full = run_script("distill", config, prefix="ulimit -f 200;")
    ctrl_c = interrupt_script(
        "distill", config, signal.SIGINT, lambda: (output / "checkpoints" / "step_000002").exists()
    )
    # Checkpoints come after steps 2, 4, ... and the teacher is synchronized after steps 3, 6, ...
    interrupt_script(
        "distill",
        config,
        signal.SIGKILL,
        lambda: (output / "checkpoints" / "step_000004").exists() and count_lines(metrics) >= 5,
    )
    assert not (output / "student").exists()
    lines_after_kill = count_lines(metrics)
    # As a kill in the middle of a save would leave it.
    (output / "checkpoints" / ".step_000006.tmp" / "student").mkdir(parents=True, exist_ok=True)
    return Interrupted(output, disk_full, ctrl_c, lines_after_kill, run_script("distill", config))


def test_a_full_disk_gives_a_one_line_error(interrupted):
    error = the_error(interrupted.disk_full)
    assert "a file could not be written (File too large); free space or change OUTPUT_DIR" in error


def test_ctrl_c_exits_with_130_and_a_message(interrupted):
    assert interrupted.ctrl_c.code == 130
    assert "stopped; the same command continues from here" in interrupted.ctrl_c.err
    assert "Traceback" not in interrupted.ctrl_c.err


def test_the_last_start_continues_from_the_newest_checkpoint_and_finishes(interrupted):
    assert interrupted.last.code == 0, interrupted.last
    assert re.search(r"continuing after step ([468]) from \S+/checkpoints/step_00000\1\n", interrupted.last.out)


def test_the_student_equals_that_of_a_run_that_was_never_interrupted(interrupted, full_run):
    assert same_weights(interrupted.output / "student", full_run.folder / "sd_zero" / "student")


def test_every_step_is_logged_once_with_the_same_metrics(interrupted, full_run):
    assert interrupted.lines_after_kill >= 5
    assert metrics_of(interrupted.output) == metrics_of(full_run.folder / "sd_zero")


def test_no_logged_sample_is_duplicated_or_lost(interrupted, full_run):
    reference = read_jsonl(full_run.folder / "sd_zero" / "samples.jsonl")
    assert read_jsonl(interrupted.output / "samples.jsonl") == reference


def test_no_partial_checkpoint_is_left(interrupted):
    assert list((interrupted.output / "checkpoints").glob(".*")) == []


def test_a_kill_before_the_export_repeats_no_step(full_run, call, tmp_path):
    output = tmp_path / "sd_zero"
    config = full_run.distillation | {"OUTPUT_DIR": output}
    assert call("distill", config | {"KEEP_CHECKPOINTS_AFTER_END": 1}).code == 0
    shutil.rmtree(output / "student")
    (output / ".student.tmp").mkdir()
    again = call("distill", config)
    assert again.code == 0, again
    assert "continuing after step 10" in again.out
    assert same_weights(output / "student", full_run.folder / "sd_zero" / "student")
    assert metrics_of(output) == metrics_of(full_run.folder / "sd_zero")
