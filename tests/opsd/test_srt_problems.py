"""Problems that Phase 1 used: left out of training, named where validation shares them, handed on."""

import json
import shutil

import pytest

from opsd.config import DistillConfig
from opsd.distill import prepare
from srt.collect.consumed import (
    DISTILL_PROBLEMS,
    SRT_PROBLEMS,
    consumed_by_checkpoint,
    text_sha256,
    write_consumed,
)
from srt.common.errors import UserError
from srt.config import load_config
from tests.opsd.helpers.problems import PROBLEMS, problem
from tests.opsd.helpers.runs import train_run


@pytest.fixture
def data(tmp_path):
    """data(name, *texts) -> a dataset of these problems."""

    def write(name, *texts):
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps({"problem": text, "answer": "1"}) + "\n" for text in texts))
        return path

    return write


@pytest.fixture
def srt_model(tiny_checkpoint, tmp_path):
    """srt_model(*texts) -> a checkpoint that says that Phase 1 used these problems."""

    def copy(*texts):
        folder = shutil.copytree(tiny_checkpoint, tmp_path / "srt")
        write_consumed(folder / SRT_PROBLEMS, [problem(x=text, id=f"id of {text}") for text in texts])
        return folder

    return copy


@pytest.fixture
def prepared(tmp_path, data):
    """prepared(student, ...) -> the Run over the problems x = 1, x = 2 and x = 3."""
    train = data("train", "x = 1", "x = 2", "x = 3")

    def make(student, *knobs):
        fixed = ["engine=local", f"output_dir={tmp_path / 'out'}", f"train_dataset={train}", "val_period=0"]
        return prepare(load_config(DistillConfig, "distill", [*fixed, f"student_model={student}", *knobs]))

    return make


def texts(run):
    return [problem.x for problem in run.train_set.problems]


def test_the_problems_that_the_checkpoint_names_are_left_out_and_counted(prepared, srt_model, capsys):
    student = srt_model("X =  2", "another problem")  # white space and case do not matter
    run = prepared(student)
    assert texts(run) == ["x = 1", "x = 3"]
    assert (
        f"problems of Phase 1: 1 of 3 are left out, 2 are left ({student / SRT_PROBLEMS})"
        in capsys.readouterr().out
    )
    everything = prepared(student, "exclude_srt_problems=0")
    assert texts(everything) == ["x = 1", "x = 2", "x = 3"]
    assert run.train_set.fingerprint != everything.train_set.fingerprint


def test_the_knob_names_the_list_of_a_checkpoint_without_one(prepared, tiny_checkpoint, tmp_path, capsys):
    path = tmp_path / "used.jsonl"
    write_consumed(path, [problem(x="x = 1")])
    assert texts(prepared(tiny_checkpoint, f"srt_problems={path}")) == ["x = 2", "x = 3"]
    capsys.readouterr()
    assert texts(prepared(tiny_checkpoint)) == ["x = 1", "x = 2", "x = 3"]
    assert "holds no list of them (srt_problems.jsonl) and SRT_PROBLEMS is not set" in capsys.readouterr().out


def test_a_list_that_is_missing_or_broken_is_refused(prepared, tiny_checkpoint, tmp_path):
    with pytest.raises(UserError, match="missing.jsonl"):
        prepared(tiny_checkpoint, f"srt_problems={tmp_path / 'missing.jsonl'}")
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"problem": "x = 1"}\n')
    with pytest.raises(UserError, match="broken.jsonl, line 1: expected a problem's id and text_sha256"):
        prepared(tiny_checkpoint, f"srt_problems={broken}")


def test_nothing_left_is_refused(prepared, srt_model):
    student = srt_model("x = 1", "x = 2", "x = 3")
    with pytest.raises(UserError, match="Phase 1 used all 3 of the training set .* or EXCLUDE_SRT_PROBLEMS=0"):
        prepared(student)
    assert len(texts(prepared(student, "exclude_srt_problems=0"))) == 3


def test_validation_problems_that_either_phase_trains_on_are_named(prepared, srt_model, data, capsys):
    student = srt_model("x = 2", "x = 8")
    validation = data("validation", "x = 8", "x = 9", "x =  3")
    prepared(student, "val_period=5", f"val_dataset={validation}")
    out = capsys.readouterr().out
    assert "warning: 1 of 3 validation problems are also training problems of Phase 1" in out
    assert "warning: 1 of 3 validation problems are also training problems of Phase 2" in out
    prepared(student, "val_period=5", f"val_dataset={data('other', 'x = 5')}")
    assert "validation problems" not in capsys.readouterr().out


def test_the_export_hands_both_lists_on(make_run, grader, coin_checkpoint, tmp_path):
    run = make_run(
        coin_checkpoint,
        PROBLEMS,
        num_prompts_per_step=2,
        train_global_batch_size=2,
        max_num_steps=2,
        max_total_sequence_length=22,
    )
    write_consumed(tmp_path / "list.jsonl", [problem(x="x = 1", id="of Phase 1")])
    run.srt_problems = (tmp_path / "list.jsonl").read_bytes()
    (tmp_path / "list.jsonl").unlink()  # as a collection that went on would
    train_run(run, grader)
    used = consumed_by_checkpoint(str(run.student_folder))
    assert used["Phase 1"] == {text_sha256("x = 1"): "of Phase 1"}
    sampled = [problem for step in (0, 1) for problem in run.problems(step)]
    assert len(sampled) == 4 < len(PROBLEMS)
    assert used["Phase 2"] == {text_sha256(problem.x): problem.id for problem in sampled}
    assert (run.student_folder / DISTILL_PROBLEMS).is_file()
