"""RUN=<OUTPUT_DIR of distill.sh>: the responses that it logged, and the same KL as it logged with them."""

import json

import pytest

from opsd.localize.run import localize
from srt.common.errors import UserError
from srt.common.files import read_jsonl
from srt.common.files import write_jsonl as write_lines
from srt.contract.records import unpack_ids
from tests.opsd.helpers.problems import PROBLEMS
from tests.opsd.helpers.runs import train_run


@pytest.fixture
def phase2_run(make_run, grader, coin_checkpoint, reviser_checkpoint, monkeypatch):
    """Two steps that update nothing, so that the student stays the one that the run began with."""
    monkeypatch.setattr("srt.common.files._locks", {})
    settings = {"max_num_steps": 2, "log_samples_period": 1, "lr": 1e-12, "max_total_sequence_length": 24}
    run = make_run(coin_checkpoint, PROBLEMS, teacher=reviser_checkpoint, **settings)
    train_run(run, grader)
    return run


def localized(run, tmp_path, **knobs):
    output = tmp_path / "out"
    knobs = {"run": run.output_dir, "pair_names": "pair", "output_dir": output, "prompt_suffix": "", **knobs}
    localize([f"{name}={value}" for name, value in knobs.items()])
    (pair,) = json.loads((output / "localization.json").read_text())["pairs"]
    return pair, read_jsonl(output / "pair" / "scores.jsonl")


def test_its_models_read_its_responses_as_in_training(phase2_run, tmp_path, coin_checkpoint, reviser_checkpoint):
    pair, scores = localized(phase2_run, tmp_path)
    assert (pair["student"], pair["teacher"]) == (str(coin_checkpoint), str(reviser_checkpoint))
    logged = read_jsonl(phase2_run.output_dir / "samples.jsonl")
    assert len(logged) == 8
    by_index = {score["problem"]: score for score in scores}
    for index, sample in enumerate(logged):
        score = by_index[index]
        assert score["id"] == f"{sample['id']}, step {sample['step']}"
        assert score["ids"] == unpack_ids(sample["ids"])
        for name in ("x", "r", "p_r", "tokens", "finish_reason"):
            assert score[name] == sample[name]
        assert score["kl"] == pytest.approx(sample["kl"], rel=1e-3, abs=2e-5)
    assert max(max(score["kl"]) for score in scores) > 0.1


def test_other_models_may_read_them(phase2_run, tmp_path, reviser_checkpoint):
    student = phase2_run.output_dir / "student"
    pair, scores = localized(phase2_run, tmp_path, student_model=student, max_samples=3)
    assert pair["student"] == pair["teacher"] == str(student) and len(scores) == 3


def test_samples_of_an_older_version_have_no_ids(phase2_run, tmp_path):
    path = phase2_run.output_dir / "samples.jsonl"
    old = [{name: value for name, value in line.items() if name != "ids"} for line in read_jsonl(path)]
    path.unlink()
    write_lines(path, old)
    with pytest.raises(UserError, match="set DATASET instead of RUN"):
        localized(phase2_run, tmp_path)


def test_a_damaged_sample_is_named(phase2_run, tmp_path):
    path = phase2_run.output_dir / "samples.jsonl"
    path.write_bytes(path.read_bytes() + b'{"ids": "", "id": "s"}\n')
    with pytest.raises(UserError, match="samples.jsonl, line 9: expected a graded response"):
        localized(phase2_run, tmp_path)
