"""The training loop with the local engine: what enters the loss, logs, stopping and resuming, validation."""

import re
import shutil
from dataclasses import replace

import pytest

from opsd.export import accuracy_before_and_after
from opsd.local.engine import LocalEngine
from opsd.monitors import HealthMonitor
from opsd.run_log import RunLog
from opsd.train import train
from srt.common.errors import UserError
from srt.common.files import read_json, read_jsonl
from srt.common.models import load_model
from srt.common.progress import Progress
from tests.opsd.helpers.problems import PHRASES, PROBLEMS, TOO_LONG, problem
from tests.opsd.helpers.runs import train_run
from tests.opsd.helpers.states import equal

# What enters the loss -----------------------------------------------------------------------------------


@pytest.mark.parametrize("include_truncated", [0, 1])
def test_truncated_responses_enter_the_loss_only_when_asked_for(open_run, coin_checkpoint, include_truncated):
    # The longer prompts leave no room for a whole answer.
    longer = [problem(x=f"x = {digit} [A] + 1 [B] - 2", id=f"longer {digit}") for digit in (1, 2)]
    settings = {"max_total_sequence_length": 20, "include_truncated": include_truncated}
    opened = open_run(coin_checkpoint, [*PROBLEMS[:2], *longer], **settings)
    output = opened.output(0)
    metrics, trained = output.metrics(), output.pairs
    assert metrics["truncated"] == 0.5
    cut_off = [pair for pair in trained if pair.rollout.finish_reason == "length"]
    assert len(cut_off) == (2 if include_truncated else 0)
    assert metrics["trained_tokens"] == sum(len(pair.rollout.y) for pair in trained)
    assert metrics["trained_responses"] == len(trained)


def test_a_step_of_which_nothing_enters_the_loss_says_what_to_change(open_run, tiny_checkpoint):
    opened = open_run(tiny_checkpoint, PROBLEMS, max_total_sequence_length=15, include_truncated=0)
    with pytest.raises(UserError, match=r"no response enters the loss \(4 of 4 were graded\).*INCLUDE_TRUNCATED"):
        opened.step(0)


@pytest.mark.parametrize("early", [{}, {"over_issue": 0.5}, {"rollout_ahead": 1}], ids=str)
def test_a_sampler_of_another_model_ends_the_run_in_its_first_step(
    make_run, grader, coin_checkpoint, tiny_checkpoint, early
):
    run = make_run(coin_checkpoint, PROBLEMS, max_num_steps=2, **early)
    assert run.claim_folder()
    engine = LocalEngine(run, grader)
    engine.sampler.model = load_model(str(tiny_checkpoint)).eval()
    engine.sampler.update_weights = lambda weights: None
    with pytest.raises(UserError, match="sampler and trainer disagree .* in the first step"):
        train(run, engine)
    assert not list(run.output_dir.glob("checkpoints/*"))


def test_a_response_with_a_token_that_the_teacher_lacks_stays_out_of_the_loss(
    open_run, tiny_checkpoint, layout, tmp_path, capsys
):
    student = load_model(str(tiny_checkpoint))
    vocab = student.config.vocab_size
    student.resize_token_embeddings(vocab + 8)
    student.save_pretrained(tmp_path / "student")
    layout.tokenizer.save_pretrained(tmp_path / "student")
    opened = open_run(tmp_path / "student", PROBLEMS, teacher=tiny_checkpoint)
    assert f"has {vocab} vocab entries" in capsys.readouterr().out
    with opened.engine.sampling() as sampler:
        rollouts = opened.rollout_worker.sample(sampler, opened.run.problems(0), 0)
    rollouts = [replace(rollout, y=[token % vocab for token in rollout.y]) for rollout in rollouts]
    padding = replace(rollouts[0], y=[vocab + 3, *rollouts[0].y[1:]])
    pairs = opened.run.build_pairs([padding, *rollouts[1:]], 0)
    assert len(pairs) == len(rollouts) - 1
    opened.engine.update(pairs)
    capsys.readouterr()
    assert len(open_run(tiny_checkpoint, PROBLEMS, folder="same").run.build_pairs(rollouts, 0)) == len(rollouts)
    assert "vocab entries" not in capsys.readouterr().out


def test_responses_that_were_shortened_for_the_teacher_are_counted(open_run, tiny_checkpoint):
    opened = open_run(tiny_checkpoint, PROBLEMS, max_total_sequence_length=30, max_teacher_tokens=40)
    metrics = opened.step(0)
    assert metrics["shortened_for_teacher"] == 4
    assert 0 < metrics["trained_tokens"] < 4 * metrics["response_tokens"]


def test_limits_beyond_the_models_context_are_lowered_with_a_line(open_run, tiny_checkpoint, capsys):
    opened = open_run(tiny_checkpoint, PROBLEMS, max_total_sequence_length=600, max_teacher_tokens=700)
    assert (opened.rollout_worker.max_total_tokens, opened.run.max_teacher_tokens) == (512, 512)
    out = capsys.readouterr().out
    assert "MAX_TOTAL_SEQUENCE_LENGTH: 600 tokens capped at 512" in out
    assert "MAX_TEACHER_TOKENS: 700 tokens capped at 512" in out


# Stopping and resuming ----------------------------------------------------------------------------------

RUN = {
    "max_num_steps": 5,
    "save_period": 3,
    "log_samples_period": 1,
    "val_period": 2,
    "val_num_samples": 2,
    "max_total_sequence_length": 22,
    "lr": 1e-3,
}


def same_file(one, other):
    return one.read_bytes() == other.read_bytes()


def without_seconds(path):
    times = ("seconds", "ahead_seconds")
    return [{name: value for name, value in line.items() if name not in times} for line in read_jsonl(path)]


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"teacher_sync": "steps", "teacher_sync_steps": 2},
        {"teacher_sync": "epochs", "teacher_sync_epochs": 1, "stop_on_collapse": 1},
        {"over_issue": 0.5, "teacher_sync": "steps", "teacher_sync_steps": 2},
        {"rollout_ahead": 1, "teacher_sync": "steps", "teacher_sync_steps": 2},
        {"lora_rank": 2},
        {"lora_rank": 2, "teacher_sync": "steps", "teacher_sync_steps": 2},
    ],
    ids=str,
)
def test_a_run_that_was_stopped_and_resumed_is_the_run_that_was_not(
    make_run, grader, coin_checkpoint, monkeypatch, more, capsys
):
    def new_run(folder):
        validation = [problem("8", id="validation"), TOO_LONG]
        train = [*PROBLEMS, TOO_LONG]
        return make_run(coin_checkpoint, train, validation=validation, folder=folder, **(RUN | more))

    straight = new_run("straight")
    straight_engine = train_run(straight, grader)

    stopped = new_run("stopped")
    checkpoint_due = stopped.checkpoint_due

    def stop_after_step_4(finished_steps):  # its metrics are logged, its checkpoint is not made
        if finished_steps == 4:
            raise KeyboardInterrupt
        return checkpoint_due(finished_steps)

    monkeypatch.setattr(stopped, "checkpoint_due", stop_after_step_4)
    with pytest.raises(KeyboardInterrupt):
        train_run(stopped, grader)
    assert len(read_jsonl(stopped.output_dir / "metrics.jsonl")) == 4
    resumed = new_run("stopped")
    resumed_engine = train_run(resumed, grader)
    assert "continuing after step 3" in capsys.readouterr().out

    assert same_file(*(run.student_folder / "model.safetensors" for run in (resumed, straight)))
    for name in ("student", "teacher"):
        models = [getattr(engine, name).model for engine in (resumed_engine, straight_engine)]
        assert equal(*(model.state_dict() for model in models)), name
    for name in ("metrics.jsonl", "validation.jsonl", "samples.jsonl", "set_aside.jsonl"):
        once, again = (without_seconds(run.output_dir / name) for run in (straight, resumed))
        assert once and again == once, name
    set_aside = read_jsonl(straight.output_dir / "set_aside.jsonl")
    assert {line["purpose"] for line in set_aside} == {"train", "validation"}


def test_a_resumed_log_has_the_warnings_of_the_run_that_was_not_stopped(make_run, grader, coin_checkpoint):
    run = make_run(coin_checkpoint, PROBLEMS, **RUN)
    train_run(run, grader)
    lines = read_jsonl(run.output_dir / "metrics.jsonl")
    uninterrupted = HealthMonitor()
    for line in lines:
        uninterrupted.check(line)
    log = RunLog(run, len(lines), Progress("step"))
    assert vars(log.health) == vars(uninterrupted)  # the same warnings will follow
    log.close()


def test_warnings_are_logged_and_those_of_steps_that_are_made_again_are_dropped(
    make_run, grader, coin_checkpoint, capsys
):
    run = make_run(coin_checkpoint, PROBLEMS, **RUN)
    log = RunLog(run, 0, Progress("step"))
    log.warn(-1, "before the first step")
    for step in (2, 4):
        log.warn(step, "the reward fell")
    log.close()
    captured = capsys.readouterr()
    assert "warning, step 3: the reward fell" in captured.out + captured.err
    RunLog(run, 3, Progress("step")).close()
    assert read_jsonl(run.output_dir / "warnings.jsonl") == [
        {"step": -1, "warning": "before the first step"},
        {"step": 2, "warning": "the reward fell"},
    ]


def test_a_complete_run_is_left_alone(make_run, grader, coin_checkpoint, capsys):
    settings = RUN | {"max_num_steps": 1}
    first = make_run(coin_checkpoint, PROBLEMS, **settings)
    train_run(first, grader)
    files = {p: p.stat().st_mtime_ns for p in first.output_dir.rglob("*") if p.is_file()}
    assert read_json(first.output_dir / "run.json")["results"]["steps"] == 1
    assert not make_run(coin_checkpoint, PROBLEMS, **settings).claim_folder()
    assert "self-distillation is complete" in capsys.readouterr().out
    assert {p: p.stat().st_mtime_ns for p in first.output_dir.rglob("*") if p.is_file()} == files


@pytest.mark.parametrize("kept", [0, 1, 5])
def test_a_finished_run_keeps_as_many_checkpoints_as_it_is_told_to(
    make_run, grader, coin_checkpoint, capsys, kept
):
    settings = RUN | {"save_period": 1, "max_num_steps": 3, "keep_checkpoints": 3, "stop_on_collapse": 1.0}
    run = make_run(coin_checkpoint, PROBLEMS, **settings, validation=PROBLEMS[:2], keep_checkpoints_after_end=kept)
    train_run(run, grader)
    folders = sorted(path.name for path in (run.output_dir / "checkpoints").glob("*"))
    assert folders == [f"step_{step:06d}" for step in (1, 2, 3)][3 - min(kept, 3) :]
    assert (run.output_dir / "best").exists() == bool(kept)
    assert (run.student_folder / "model.safetensors").exists()
    printed = capsys.readouterr().out
    assert ("that only served to resume" in printed) == (kept < 3)
    assert re.search(r"validation avg@2 +\d+\.\d% before the first step", printed)
    assert f"next: MODEL_PATH={run.student_folder} bash scripts/evaluate.sh" in printed


def test_the_summary_has_the_accuracy_before_and_after():
    lines = [{"step": -1, "avg_at_k": 0.485}, {"step": 9, "avg_at_k": 0.7}, {"step": 29, "avg_at_k": 0.665}]
    assert accuracy_before_and_after(lines, 30) == "48.5% before the first step, 66.5% after step 30"
    assert (
        accuracy_before_and_after(lines, 10) == "48.5% before the first step, 70.0% after step 10"
    )  # the best one
    assert accuracy_before_and_after(lines, 0) == "48.5% before the first step"
    assert accuracy_before_and_after([], 30) is None


def test_checkpoints_left_by_a_kill_right_after_the_export_are_deleted_by_the_next_call(
    make_run, grader, coin_checkpoint
):
    run = make_run(coin_checkpoint, PROBLEMS, **(RUN | {"max_num_steps": 1}))
    train_run(run, grader)
    (run.output_dir / "checkpoints" / "step_000001").mkdir(parents=True)
    assert not run.claim_folder()
    assert not (run.output_dir / "checkpoints").exists()


def test_another_setting_in_the_same_folder_is_refused(make_run, coin_checkpoint):
    make_run(coin_checkpoint, PROBLEMS).claim_folder()
    with pytest.raises(UserError, match="holds a run with other settings: lr was 5e-06 and is now 0.001"):
        make_run(coin_checkpoint, PROBLEMS, lr=1e-3).claim_folder()


def test_a_validation_of_which_every_sample_is_set_aside_is_reported_and_does_not_stop_the_run(
    make_run, grader, coin_checkpoint, capsys
):
    run = make_run(coin_checkpoint, PROBLEMS, validation=[TOO_LONG], val_period=1, max_num_steps=1)
    train_run(run, grader)
    captured = capsys.readouterr()
    assert "every validation sample was set aside" in captured.out + captured.err
    assert read_jsonl(run.output_dir / "validation.jsonl") == []
    (before, after) = read_jsonl(run.output_dir / "warnings.jsonl")
    assert (before["step"], after["step"]) == (-1, 0)
    assert before["warning"].startswith("every validation sample was set aside; see ")


def test_logged_samples_are_the_first_problems_and_hold_a_kl_for_each_token(make_run, grader, coin_checkpoint):
    run = make_run(
        coin_checkpoint,
        PROBLEMS,
        num_prompts_per_step=6,
        train_global_batch_size=3,
        max_total_sequence_length=24,
        tokens_per_micro_batch=1,
        max_num_steps=3,
        log_samples_period=2,
    )
    train_run(run, grader)
    lines = read_jsonl(run.output_dir / "samples.jsonl")
    expected = [(step, problem.id) for step in (0, 2) for problem in run.problems(step)[:4]]
    assert [(line["step"], line["id"]) for line in lines] == expected
    for line in lines:
        assert len(line["kl"]) == len(line["tokens"]) > 0
        assert line["p_r"] == PHRASES[line["r"]]


def test_the_loop_syncs_the_teacher_only_when_that_is_due(make_run, grader, coin_checkpoint):
    settings = {"max_num_steps": 3, "lr": 1e-3, "max_total_sequence_length": 24}
    start = load_model(str(coin_checkpoint)).state_dict()
    frozen = train_run(make_run(coin_checkpoint, PROBLEMS, folder="frozen", **settings), grader)
    assert equal(frozen.teacher.model.state_dict(), start)
    synced = train_run(
        make_run(coin_checkpoint, PROBLEMS, teacher_sync="steps", teacher_sync_steps=2, **settings), grader
    )
    teacher, student = (model.model.state_dict() for model in (synced.teacher, synced.student))
    assert not equal(teacher, start) and not equal(teacher, student)  # the student of step 2


# Validation ---------------------------------------------------------------------------------------------


def test_validation_comes_before_the_first_step_at_every_period_and_at_the_end(make_run, grader, coin_checkpoint):
    run = make_run(coin_checkpoint, PROBLEMS, validation=[problem("8", id="validation")], **RUN)
    train_run(run, grader)
    lines = read_jsonl(run.output_dir / "validation.jsonl")
    assert [line["step"] for line in lines] == [-1, 1, 3, 4]
    for line in lines:
        assert line["revisions_r0"] + line["revisions_r1"] == RUN["val_num_samples"]
        assert (line["revise_r1"] is None) == (line["revisions_r1"] == 0)
    metrics = {line["step"]: line for line in read_jsonl(run.output_dir / "metrics.jsonl")}
    assert [step for step, line in metrics.items() if "val_avg_at_k" in line] == [1, 3, 4]
    assert metrics[3]["val_revise_r0"] == lines[2]["revise_r0"]


@pytest.mark.parametrize(
    ("early", "left"), [({}, 0), ({"over_issue": 0.5}, 2), ({"rollout_ahead": 1}, 4)], ids=str
)
def test_a_run_whose_validation_collapses_stops_and_hands_over_the_best_student(
    make_run, grader, coin_checkpoint, capsys, early, left
):
    settings = RUN | {"stop_on_collapse": 0.2, "val_period": 1, "val_num_samples": 8, "lr": 0.5}
    settings |= {"keep_checkpoints_after_end": 1} | early  # also the best student
    run = make_run(coin_checkpoint, PROBLEMS, validation=[problem("7", id="validation")], **settings)
    train_run(run, grader)
    lines = read_jsonl(run.output_dir / "validation.jsonl")
    assert lines[0]["avg_at_k"] >= 0.25 and lines[-1]["avg_at_k"] == 0  # the learning rate broke it
    results = read_json(run.output_dir / "run.json")["results"]
    assert results["steps"] < RUN["max_num_steps"]
    out = capsys.readouterr().out
    assert "stopping: that is more than STOP_ON_COLLAPSE=0.2 below" in out
    assert (f"{left} responses were under way when the run ended, and are not trained on" in out) == (left > 0)
    warnings = read_jsonl(run.output_dir / "warnings.jsonl")
    assert warnings[-1]["step"] == lines[-1]["step"] and warnings[-1]["warning"].startswith("stopping: ")
    best = max(range(len(lines)), key=lambda index: lines[index]["avg_at_k"])
    assert best == 0
    assert same_file(run.output_dir / "student" / "model.safetensors", coin_checkpoint / "model.safetensors")
    assert results["student_of_step"] == 0
    assert [path.name for path in (run.output_dir / "best").iterdir()] == ["step_000000"]

    shutil.rmtree(run.output_dir / "student")  # killed before it was there
    train_run(make_run(coin_checkpoint, PROBLEMS, validation=[problem("7", id="validation")], **settings), grader)
    assert read_json(run.output_dir / "run.json")["results"]["steps"] == results["steps"]
    assert read_jsonl(run.output_dir / "validation.jsonl") == lines
    assert read_jsonl(run.output_dir / "warnings.jsonl") == warnings
    assert same_file(run.output_dir / "student" / "model.safetensors", coin_checkpoint / "model.safetensors")
