"""TEACHER_SYNC=plateau: what is a plateau, who may become the teacher, and that a resumed run decides alike."""

import pytest

from opsd.teacher_sync import compare_revisers, has_plateaued
from srt.common.files import read_jsonl
from tests.opsd.helpers.problems import PROBLEMS
from tests.opsd.helpers.runs import train_run
from tests.opsd.helpers.states import equal

# The plateau --------------------------------------------------------------------------------------------


def plateaus(rewards, window, lengths=None):
    """The numbers of finished steps after which the reward has plateaued."""
    lengths = lengths or [100] * len(rewards)
    return [n for n in range(1, len(rewards) + 1) if has_plateaued(rewards[:n], lengths[:n], window)]


def test_a_rising_reward_has_not_plateaued_and_a_constant_one_has_after_two_windows():
    assert plateaus([step / 100 for step in range(60)], 5) == []
    assert plateaus([0.5] * 12, 5) == [10, 11, 12]


def test_the_reward_must_not_have_risen_for_a_window():
    rising, flat = [step / 20 for step in range(10)], [0.45] * 12
    # The last mean with a rise covers steps 10 to 13: its last step is the 14th. A window later, the wait is over.
    assert plateaus(rising + flat, 4)[0] == 10 + 3 + 4
    assert plateaus(rising + [0.45] * 6 + [0.9] * 3, 4) == []  # it rose again in time


def test_a_step_of_luck_is_averaged_over_the_window():
    noisy = [0.4, 0.6] * 10
    assert plateaus(noisy, 4)[0] == 8
    falling = [0.8 - step / 100 for step in range(20)]
    assert plateaus(falling, 5)[0] == 10


def test_the_length_of_long_responses_must_be_stable():
    rewards = [0.5] * 20
    assert plateaus(rewards, 5, [100 + 3 * step for step in range(20)]) == []
    shrinking = [200] * 8 + [100] * 12
    assert plateaus(rewards, 5, shrinking) == [18, 19, 20]  # once both windows lie behind the change


# Who revises at least as well -----------------------------------------------------------------------------


def revisers(wrong, right, counts=(400, 400)):
    return {"revise_r0": wrong, "revisions_r0": counts[0], "revise_r1": right, "revisions_r1": counts[1]}


@pytest.mark.parametrize(
    ("student", "objections"),
    [
        (revisers(0.2, 0.9), []),
        (revisers(0.3, 0.95), []),
        (revisers(0.19, 0.89), []),  # chance
        (
            revisers(0.1, 0.95),
            ["after revising wrong responses the student is correct in 10.0%, the teacher in 20.0%"],
        ),
        (
            revisers(0.4, 0.8),
            ["after revising right responses the student is correct in 80.0%, the teacher in 90.0%"],
        ),
        (revisers(0.1, 0.8), ["after revising wrong", "after revising right"]),
        (revisers(1.0, 1.0, (19, 400)), ["400 and 19 revisions of wrong responses"]),
        (revisers(None, 1.0, (0, 400)), ["400 and 0 revisions of wrong responses"]),
        ({}, ["400 and 0 revisions of wrong", "400 and 0 revisions of right"]),
    ],
    ids=str,
)
def test_wrong_and_right_responses_are_compared_apart(student, objections):
    actual = compare_revisers(revisers(0.2, 0.9), student)
    assert len(actual) == len(objections)
    assert all(expected in text for expected, text in zip(objections, actual, strict=True))


# Whole runs -----------------------------------------------------------------------------------------------

RUN = {
    "teacher_sync": "plateau",
    "teacher_sync_window": 2,
    "max_num_steps": 12,
    "max_num_epochs": 20,
    "save_period": 5,
    "val_period": 100,
    "val_num_samples": 60,
    "max_total_sequence_length": 24,
}


@pytest.fixture
def finished(make_run, grader, reviser_checkpoint, tmp_path, capsys):
    """finished(folder, **knobs) -> run, engine, what was printed."""

    def train(folder, **knobs):
        run = make_run(reviser_checkpoint, PROBLEMS, validation=PROBLEMS[:2], folder=folder, **(RUN | knobs))
        engine = train_run(run, grader)
        captured = capsys.readouterr()
        return run, engine, captured.out + captured.err

    return train


def decisions(run):
    return read_jsonl(run.output_dir / "teacher_sync.jsonl")


def test_a_student_that_still_revises_becomes_the_teacher_at_the_plateau(finished):
    """With a learning rate next to nothing the student stays what it was, and so does the reward."""
    run, engine, printed = finished("stays", lr=1e-6)
    synced = [line for line in decisions(run) if line["synced"]]
    assert synced and synced[0]["step"] >= 3
    steps = {line["step"]: line for line in read_jsonl(run.output_dir / "metrics.jsonl")}
    for line in synced:
        assert line["kl_before_sync"] > 0 and line["kl_after_sync"] > 0  # the cue is still there
        assert steps[line["step"]]["kl_after_sync"] == line["kl_after_sync"]
        assert line["step"] in [v["step"] for v in read_jsonl(run.output_dir / "validation.jsonl")]
        assert all(line[who][f"revisions_r{r}"] >= 20 for who in ("teacher", "student") for r in (0, 1))
        assert line["student"]["revise_r0"] > 0.9
    assert engine.teacher.was_synced
    assert "the teacher is now the student (KL " in printed
    assert "correct after revising wrong responses: " in printed


def test_a_student_that_forgot_how_to_revise_does_not_and_the_run_says_why(finished):
    """Such a learning rate destroys the model: it neither answers nor revises."""
    run, engine, printed = finished("forgets", lr=3e-2, max_num_steps=8)
    lines = decisions(run)
    assert lines and not any(line["synced"] for line in lines)
    assert lines[0]["teacher"]["revise_r0"] > 0.9 > 0.1 > lines[0]["student"]["revise_r0"]
    assert "after revising wrong responses the student is correct in 0.0%, the teacher in " in lines[0]["reason"]
    assert "but the teacher stays: " in printed and lines[0]["reason"] in printed
    assert not engine.teacher.was_synced
    assert not (run.output_dir / "checkpoints" / "step_000005" / "teacher").exists()


@pytest.mark.parametrize("lr", [1e-6, 3e-2])
def test_a_run_that_was_stopped_and_resumed_decides_as_the_one_that_was_not(
    make_run, finished, grader, reviser_checkpoint, monkeypatch, lr
):
    straight, straight_engine, _ = finished("straight", lr=lr)
    stopped = make_run(reviser_checkpoint, PROBLEMS, validation=PROBLEMS[:2], folder="stopped", lr=lr, **RUN)
    due = stopped.checkpoint_due

    def stop_in_step_9(finished_steps):  # after its line is logged, four steps after the newest checkpoint
        if finished_steps == 9:
            raise KeyboardInterrupt
        return due(finished_steps)

    monkeypatch.setattr(stopped, "checkpoint_due", stop_in_step_9)
    with pytest.raises(KeyboardInterrupt):
        train_run(stopped, grader)
    resumed, resumed_engine, printed = finished("stopped", lr=lr)
    assert "continuing after step 5" in printed
    assert decisions(resumed) == decisions(straight) != []
    assert equal(resumed_engine.teacher.model.state_dict(), straight_engine.teacher.model.state_dict())
    assert equal(resumed_engine.student.model.state_dict(), straight_engine.student.model.state_dict())


def test_a_clock_logs_the_kl_before_and_after_too(finished):
    run, _, _ = finished("clock", teacher_sync="steps", teacher_sync_steps=2, max_num_steps=4, lr=1e-2)
    assert [(line["step"], line["synced"]) for line in decisions(run)] == [(1, True), (3, True)]
    assert decisions(run)[0]["kl_before_sync"] != decisions(run)[0]["kl_after_sync"]
