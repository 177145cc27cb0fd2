"""SFT interrupted in several ways, then rerun with the same command."""

import os
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest

from srt.common.files import read_json
from tests.end_to_end.commands import Outcome, interrupt_script, run_script, the_error
from tests.end_to_end.conftest import same_weights


def losses(stage_folder: Path) -> list[tuple[int, float]]:
    log = read_json(stage_folder / "training_log.json")
    return [(entry["step"], entry["loss"]) for entry in log if "loss" in entry]


@dataclass(frozen=True)
class Interrupted:
    """A run interrupted four times: full disk, kill -9 in stage 1, Ctrl-C, and kill -9 in stage 2."""

    output: Path
    disk_full: Outcome
    ctrl_c: Outcome
    stage1_after_kill: bool
    last: Outcome


@pytest.fixture(scope="module")
def interrupted(full_run, tmp_path_factory) -> Interrupted:
    output = tmp_path_factory.mktemp("interrupted") / "srt"
    config = full_run.sft | {"OUTPUT_DIR": output}

    # A checkpoint's weights (400 KiB) exceed this limit.
    disk_full = run_script("sft", config, prefix="ulimit -f 200;")

    def after_checkpoint(stage: int, step: int):
        return lambda: (output / f"stage{stage}.work" / f"checkpoint-{step}" / "complete").exists()

    interrupt_script("sft", config, signal.SIGKILL, after_checkpoint(1, 8))
    stage1_after_kill = (output / "stage1").exists()
    # A partially written checkpoint has no completeness marker.
    partial = output / "stage1.work" / "checkpoint-400"
    shutil.copytree(output / "stage1.work" / "checkpoint-8", partial)
    (partial / "complete").unlink()
    (partial / "weights.safetensors").write_bytes(b"half")
    ctrl_c = interrupt_script("sft", config, signal.SIGINT, after_checkpoint(1, 16))
    interrupt_script("sft", config, signal.SIGKILL, after_checkpoint(2, 4))
    assert (output / "stage1").exists() and not (output / "stage2").exists()
    return Interrupted(output, disk_full, ctrl_c, stage1_after_kill, run_script("sft", config))


def test_a_full_disk_gives_a_one_line_error(interrupted):
    error = the_error(interrupted.disk_full)
    assert "a file could not be written (File too large); free space or change OUTPUT_DIR" in error


def test_a_killed_stage_has_no_folder_under_its_final_name(interrupted):
    assert not interrupted.stage1_after_kill


def test_ctrl_c_exits_with_130_and_a_message(interrupted):
    assert interrupted.ctrl_c.code == 130
    assert "stopped; the same command continues from here" in interrupted.ctrl_c.err
    assert "Traceback" not in interrupted.ctrl_c.err


def test_a_restart_uses_the_newest_complete_checkpoint_and_deletes_a_partial_one(interrupted):
    assert "checkpoint-400 was cut off while it was written; deleted" in interrupted.ctrl_c.out
    assert "continuing from" in interrupted.ctrl_c.out and "checkpoint-400\n" not in interrupted.ctrl_c.out


def test_after_a_kill_in_stage_2_neither_stage_starts_over(interrupted):
    assert interrupted.last.code == 0, interrupted.last
    assert f"stage 1 is complete: {interrupted.output / 'stage1'}" in interrupted.last.out
    assert f"continuing from {interrupted.output / 'stage2.work' / 'checkpoint-'}" in interrupted.last.out


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_the_weights_equal_those_of_a_run_that_was_never_interrupted(interrupted, full_run, stage):
    assert same_weights(interrupted.output / stage, full_run.folder / "srt" / stage)


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_every_update_is_logged_once_with_the_same_loss(interrupted, full_run, stage):
    assert losses(interrupted.output / stage) == losses(full_run.folder / "srt" / stage)


def test_no_working_folder_is_left(interrupted):
    assert sorted(path.name for path in interrupted.output.iterdir()) == ["run.json", "stage1", "stage2"]


# Kills around the final rename, in this process --------------------------------------------------------------


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the program catches it."""


BRIEF = {"EPOCHS_STAGE1": 0.4, "EPOCHS_STAGE2": 0.4, "REPORT_TO": "none", "SAVE_STEPS": 1}


@pytest.fixture(scope="module")
def uninterrupted(full_run, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("uninterrupted") / "srt"
    outcome = run_script("sft", full_run.sft | BRIEF | {"OUTPUT_DIR": output})
    assert outcome.code == 0, outcome
    return output


@pytest.mark.parametrize("last_call", ["os.replace", "shutil.rmtree"])
def test_a_kill_just_before_or_after_the_rename_of_a_finished_stage_changes_nothing(
    full_run, uninterrupted, call, tmp_path, monkeypatch, last_call
):
    output = tmp_path / "srt"
    config = full_run.sft | BRIEF | {"OUTPUT_DIR": output}
    module, name = last_call.split(".")
    real = getattr({"os": os, "shutil": shutil}[module], name)

    def kill_at_the_end_of_stage_1(path, *others, **options):
        if Path(path) in (output / "stage1.work" / "final", output / "stage1.work"):
            raise Killed
        return real(path, *others, **options)

    monkeypatch.setattr(last_call, kill_at_the_end_of_stage_1)
    with pytest.raises(Killed):
        call("sft", config)
    monkeypatch.undo()
    assert (output / "stage1").exists() == (last_call == "shutil.rmtree")
    last_update = losses(uninterrupted / "stage1")[-1][0]
    kept = {path.name for path in (output / "stage1.work").glob("checkpoint-*")}
    assert f"checkpoint-{last_update - 1}" in kept and f"checkpoint-{last_update}" not in kept

    again = call("sft", config)
    assert again.code == 0, again
    assert ("continuing from" in again.out) == (last_call == "os.replace")
    for stage in ("stage1", "stage2"):
        assert same_weights(output / stage, uninterrupted / stage)
    assert sorted(path.name for path in output.iterdir()) == ["run.json", "stage1", "stage2"]
