"""Collection interrupted in several ways, then rerun with the same command."""

import json
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest

from srt.common.files import read_jsonl
from tests.end_to_end.commands import Outcome, count_lines, interrupt_script, run_script, the_error


@dataclass(frozen=True)
class Interrupted:
    """A collection that was interrupted four times before the last start finished it."""

    output: Path
    train_data: Path
    disk_full: Outcome
    ctrl_c: Outcome
    kills: list[Outcome]
    log_after_kills: list[bytes]
    last: Outcome


@pytest.fixture(scope="module")
def interrupted(full_run, tmp_path_factory) -> Interrupted:
    folder = tmp_path_factory.mktemp("interrupted")
    output, train_data = folder / "collection", folder / "train_data"
    log = output / "attempts.jsonl"
    config = full_run.collection | {"OUTPUT_DIR": output, "TRAIN_DATA_DIR": train_data}

    # A limit of 8 KiB per file fails as a full disk does: in the middle of a line.
    disk_full = run_script("run_srt_data", config, prefix="ulimit -f 8;")

    def after(lines: int):
        return lambda: count_lines(log) >= lines

    ctrl_c = interrupt_script("run_srt_data", config, signal.SIGINT, after(count_lines(log) + 10))
    kills, logs = [], []
    for lines in (60, 110):
        kills.append(interrupt_script("run_srt_data", config, signal.SIGKILL, after(lines)))
        assert not (output / "d_revision.json").exists()
        logs.append(log.read_bytes())
    with log.open("ab") as file:
        file.write(b'{"kind":"revision","problem_idx":1,"resp')
    last = run_script("run_srt_data", config)
    return Interrupted(output, train_data, disk_full, ctrl_c, kills, logs, last)


def test_a_full_disk_gives_a_one_line_error(interrupted):
    error = the_error(interrupted.disk_full)
    assert "attempts.jsonl: cannot be written (File too large); free space or change OUTPUT_DIR" in error


def test_ctrl_c_exits_with_130_and_a_message(interrupted):
    assert interrupted.ctrl_c.code == 130
    assert "stopped; the same command continues from here" in interrupted.ctrl_c.err
    assert "Traceback" not in interrupted.ctrl_c.err


def test_kill_9_leaves_no_process_that_keeps_the_output_open(interrupted):
    # communicate() returned, so no process holds the pipes open.
    assert [kill.code for kill in interrupted.kills] == [-signal.SIGKILL, -signal.SIGKILL]


def test_the_last_start_reports_that_it_continues_and_finishes(interrupted):
    assert interrupted.last.code == 0, interrupted.last
    assert "continuing: " in interrupted.last.out
    assert "the last line was cut off by a crash" in interrupted.last.out


def test_nothing_is_lost(interrupted):
    final = (interrupted.output / "attempts.jsonl").read_bytes()
    for earlier in interrupted.log_after_kills:
        assert final.startswith(earlier[: earlier.rfind(b"\n") + 1])


def test_nothing_is_duplicated(interrupted):
    lines = read_jsonl(interrupted.output / "attempts.jsonl")
    keys = [(line["problem_idx"], line["response_idx"], line.get("revision_idx")) for line in lines]
    assert len(keys) == len(set(keys))


def test_the_tuples_equal_those_of_a_run_that_was_never_interrupted(interrupted, full_run):
    reference = full_run.folder / "collection" / "d_revision.json"
    assert (interrupted.output / "d_revision.json").read_bytes() == reference.read_bytes()


def test_the_stage_files_equal_those_of_a_run_that_was_never_interrupted(interrupted, full_run):
    for stage in (1, 2):
        name = f"little_stage{stage}.json"
        assert (interrupted.train_data / name).read_bytes() == (full_run.folder / "train_data" / name).read_bytes()


# States that a kill may leave behind, reproduced in this process ---------------------------------------------


@pytest.fixture
def no_engine(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("an engine was started although every sample is in the log")

    monkeypatch.setattr("srt.sampling.from_config.open_sampler", refuse)


def copy_of_collection(full_run, tmp_path: Path) -> tuple[Path, dict]:
    output = tmp_path / "collection"
    shutil.copytree(full_run.folder / "collection", output)
    (output / "d_revision.json").unlink()
    return output, full_run.collection | {"OUTPUT_DIR": output, "TRAIN_DATA_DIR": tmp_path / "train_data"}


def test_with_every_sample_in_the_log_no_engine_is_started(full_run, tmp_path, call, no_engine):
    output, config = copy_of_collection(full_run, tmp_path)
    assert call("collect", config).code == 0
    reference = full_run.folder / "collection" / "d_revision.json"
    assert (output / "d_revision.json").read_bytes() == reference.read_bytes()


def test_an_unfinished_early_problem_is_finished_even_if_later_ones_fill_the_target(full_run, tmp_path, call):
    """Problems finish in any order, and the kept tuples are the first in problem order."""
    output, config = copy_of_collection(full_run, tmp_path)
    reference = json.loads((full_run.folder / "collection" / "d_revision.json").read_text())
    first = int(reference[0]["id"].removeprefix("p"))
    lines = read_jsonl(output / "attempts.jsonl")
    later = [line for line in lines if line["problem_idx"] != first]
    (output / "attempts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in later))
    # The target is at most what the later problems alone provide.
    kept_later = sum(line.get("y_revised_correct", False) for line in later)
    target = min(kept_later, 30)
    assert call("collect", config | {"TARGET_REVISION_SAMPLES": target}).code == 0
    assert json.loads((output / "d_revision.json").read_text()) == reference[:target]


def test_a_raised_target_continues_the_same_run(full_run, tmp_path, call):
    output, config = copy_of_collection(full_run, tmp_path)
    before = (output / "attempts.jsonl").read_bytes()
    assert call("collect", config | {"TARGET_REVISION_SAMPLES": 40}).code == 0
    tuples = json.loads((output / "d_revision.json").read_text())
    assert len(tuples) == 40
    assert tuples[:36] == json.loads((full_run.folder / "collection" / "d_revision.json").read_text())
    assert (output / "attempts.jsonl").read_bytes().startswith(before)


def test_new_stage_files_are_never_mixed_with_old_ones(full_run, tmp_path, call, monkeypatch):
    """Splitting is interrupted between the two stage files: SFT must not be able to train on a mixture."""
    config = full_run.collection | {"TRAIN_DATA_DIR": tmp_path}
    assert call("prepare", config).code == 0
    written = []

    def interrupt_at_stage_2(path, value, **options):
        if path.name == "little_stage2.json":
            raise KeyboardInterrupt
        written.append(path.name)
        real(path, value, **options)

    from srt.collect.split import write_json as real

    monkeypatch.setattr("srt.collect.split.write_json", interrupt_at_stage_2)
    assert call("prepare", config | {"SEED": 1}).code == 130
    assert "little_stage1.json" in written
    monkeypatch.undo()
    error = the_error(call("sft", full_run.sft | {"TRAIN_DATA_DIR": tmp_path, "OUTPUT_DIR": tmp_path / "srt"}))
    assert "little_stage2.json: no such stage file; run run_srt_data.sh first" in error
