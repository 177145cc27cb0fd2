"""Collection that is stopped in every way, and then started again with the same command."""

import json
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest

from srt.common.files import read_jsonl
from tests.end_to_end.commands import Outcome, interrupt_script, lines_in, run_script, the_error


@dataclass(frozen=True)
class Stopped:
    """A run that was stopped four times, and the whole run it must equal."""

    output: Path
    train_data: Path
    disk_full: Outcome
    ctrl_c: Outcome
    kills: list[Outcome]
    log_after_kills: list[bytes]
    last: Outcome


@pytest.fixture(scope="module")
def stopped(whole_run, tmp_path_factory) -> Stopped:
    folder = tmp_path_factory.mktemp("stopped")
    output, train_data = folder / "collection", folder / "train_data"
    log = output / "attempts.jsonl"
    config = whole_run.collection | {"OUTPUT_DIR": output, "TRAIN_DATA_DIR": train_data}

    # No file may grow beyond 8 KiB, which ends as a full disk does: in the middle of a line.
    disk_full = run_script("run_srt_data", config, prefix="ulimit -f 8;")

    def after(lines: int):
        return lambda: lines_in(log) >= lines

    ctrl_c = interrupt_script("run_srt_data", config, signal.SIGINT, after(lines_in(log) + 10))
    kills, logs = [], []
    for lines in (60, 110):
        kills.append(interrupt_script("run_srt_data", config, signal.SIGKILL, after(lines)))
        assert not (output / "d_revision.json").exists()
        logs.append(log.read_bytes())
    with log.open("ab") as file:
        file.write(b'{"kind":"revision","problem_idx":1,"resp')
    last = run_script("run_srt_data", config)
    return Stopped(output, train_data, disk_full, ctrl_c, kills, logs, last)


def test_a_full_disk_ends_in_one_sentence(stopped):
    error = the_error(stopped.disk_full)
    assert "attempts.jsonl: cannot be written (File too large); free space or change OUTPUT_DIR" in error


def test_ctrl_c_ends_with_130_and_a_sentence(stopped):
    assert stopped.ctrl_c.code == 130
    assert "stopped; the same command continues from here" in stopped.ctrl_c.err
    assert "Traceback" not in stopped.ctrl_c.err


def test_kill_9_leaves_no_process_behind_that_holds_the_output(stopped):
    # communicate() returned: nobody holds the pipes any more.
    assert [kill.code for kill in stopped.kills] == [-signal.SIGKILL, -signal.SIGKILL]


def test_the_last_start_finishes_and_says_that_it_continues(stopped):
    assert stopped.last.code == 0, stopped.last
    assert "continuing: " in stopped.last.out
    assert "the last line was cut off by a crash" in stopped.last.out


def test_nothing_is_lost(stopped):
    final = (stopped.output / "attempts.jsonl").read_bytes()
    for earlier in stopped.log_after_kills:
        assert final.startswith(earlier[: earlier.rfind(b"\n") + 1])


def test_nothing_is_there_twice(stopped):
    lines = read_jsonl(stopped.output / "attempts.jsonl")
    keys = [(line["problem_idx"], line["response_idx"], line.get("revision_idx")) for line in lines]
    assert len(keys) == len(set(keys))


def test_the_tuples_equal_those_of_a_run_that_was_never_stopped(stopped, whole_run):
    reference = whole_run.folder / "collection" / "d_revision.json"
    assert (stopped.output / "d_revision.json").read_bytes() == reference.read_bytes()


def test_the_stage_files_equal_those_of_a_run_that_was_never_stopped(stopped, whole_run):
    for stage in (1, 2):
        name = f"little_stage{stage}.json"
        assert (stopped.train_data / name).read_bytes() == (whole_run.folder / "train_data" / name).read_bytes()


# States that a kill may leave, in this process --------------------------------------------------------------


@pytest.fixture
def no_engine(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("an engine was started although every sample is in the log")

    monkeypatch.setattr("srt.sampling.from_config.open_sampler", refuse)


def copy_of_collection(whole_run, tmp_path: Path) -> tuple[Path, dict]:
    output = tmp_path / "collection"
    shutil.copytree(whole_run.folder / "collection", output)
    (output / "d_revision.json").unlink()
    return output, whole_run.collection | {"OUTPUT_DIR": output, "TRAIN_DATA_DIR": tmp_path / "train_data"}


def test_with_every_sample_in_the_log_no_engine_is_started(whole_run, tmp_path, call, no_engine):
    output, config = copy_of_collection(whole_run, tmp_path)
    assert call("collect", config).code == 0
    reference = whole_run.folder / "collection" / "d_revision.json"
    assert (output / "d_revision.json").read_bytes() == reference.read_bytes()


def test_an_unfinished_early_problem_is_finished_even_if_later_ones_fill_the_target(whole_run, tmp_path, call):
    """Problems finish in any order, and the kept tuples are the first in problem order."""
    output, config = copy_of_collection(whole_run, tmp_path)
    reference = json.loads((whole_run.folder / "collection" / "d_revision.json").read_text())
    first = int(reference[0]["id"].removeprefix("p"))
    lines = read_jsonl(output / "attempts.jsonl")
    later = [line for line in lines if line["problem_idx"] != first]
    (output / "attempts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in later))
    # Fewer are asked for than the later problems have given: the target can be raised and lowered.
    kept_later = sum(line.get("y_revised_correct", False) for line in later)
    target = min(kept_later, 30)
    assert call("collect", config | {"TARGET_REVISION_SAMPLES": target}).code == 0
    assert json.loads((output / "d_revision.json").read_text()) == reference[:target]


def test_a_raised_target_continues_the_same_run(whole_run, tmp_path, call):
    output, config = copy_of_collection(whole_run, tmp_path)
    before = (output / "attempts.jsonl").read_bytes()
    assert call("collect", config | {"TARGET_REVISION_SAMPLES": 40}).code == 0
    tuples = json.loads((output / "d_revision.json").read_text())
    assert len(tuples) == 40
    assert tuples[:36] == json.loads((whole_run.folder / "collection" / "d_revision.json").read_text())
    assert (output / "attempts.jsonl").read_bytes().startswith(before)


def test_new_tuples_never_stand_beside_a_stage_file_of_older_ones(whole_run, tmp_path, call, monkeypatch):
    """Splitting is stopped between the two stage files: SFT must not be able to train on a mixture."""
    config = whole_run.collection | {"TRAIN_DATA_DIR": tmp_path}
    assert call("prepare", config).code == 0
    written = []

    def stop_at_the_second_stage(path, value, **knob):
        if path.name == "little_stage2.json":
            raise KeyboardInterrupt
        written.append(path.name)
        real(path, value, **knob)

    from srt.collect.split import write_json as real

    monkeypatch.setattr("srt.collect.split.write_json", stop_at_the_second_stage)
    assert call("prepare", config | {"SEED": 1}).code == 130
    assert "little_stage1.json" in written
    monkeypatch.undo()
    error = the_error(call("sft", whole_run.sft | {"TRAIN_DATA_DIR": tmp_path, "OUTPUT_DIR": tmp_path / "srt"}))
    assert "little_stage2.json: no such stage file; run run_srt_data.sh first" in error
