"""The bookkeeping of a run: what a folder holds, and the line that people read of each step."""

import pytest

from opsd.journal import Journal, step_line
from opsd.rows import build_pair
from srt.errors import UserError
from srt.files import read_jsonl
from srt.problems import ProblemSet
from srt.provenance import read_metadata


@pytest.fixture
def journal(make_knobs, layout, tiny_checkpoint, tmp_path):
    def make(**settings):
        models = {"student_model": tiny_checkpoint, "teacher_model": tiny_checkpoint}
        knobs = make_knobs(**models, report_to="none", **settings)
        return Journal(knobs, layout, ProblemSet([], [], "a fingerprint"), tmp_path / "run")

    return make


def test_a_folder_is_claimed_once_and_complete_when_the_student_is_described(journal, tiny_checkpoint, tmp_path):
    assert journal().claim() is False
    assert journal().claim() is False  # the same run, continued
    with pytest.raises(UserError, match="lr was 5e-06 and is now 0.1"):
        journal(lr=0.1).claim()
    (tmp_path / "run" / "student").mkdir()
    journal().describe_student(tmp_path / "run" / "student")
    assert read_metadata(str(tmp_path / "run" / "student"))["srt_model"] == str(tiny_checkpoint)
    assert journal(num_nodes=2, gpus_per_node=8).claim() is True  # on how many GPUs is not what a run is


def test_the_line_of_a_step_says_where_its_time_went():
    figures = {
        "reward": 0.613, "kl": 0.0521, "kl_r0": 0.0931, "response_tokens": 812.4,
        "seconds": {"rollouts": 6.0, "teacher": 1.0, "student": 3.0},
    }  # fmt: skip
    assert step_line(12, 80, figures) == (
        "step 12/80: reward 61.3%, KL 0.0521 (r0 0.0931, r1 nan), 812 tokens, 10.0 s "
        "(rollouts 60%, teacher 10%, student 30%)"
    )


def test_samples_hold_each_tokens_kl(journal, make_rollout, layout):
    pairs = [build_pair(make_rollout("7"), layout, 100), build_pair(make_rollout("8", r=1), layout, 100)]
    log = journal(log_samples_period=5)
    log.open(first_step=0)
    kl = {id(pair): [0.25] * len(pair.targets) for pair in pairs}
    log.log_samples(5, pairs, kl)
    log.log_samples(6, pairs, kl)
    first, second = read_jsonl(log.samples.path)
    assert (first["step"], first["r"], second["r"]) == (5, 0, 1)
    assert first["kl"] == [0.25] * len(first["tokens"])
