"""ROLLOUT_AHEAD: while a step trains, the next one's responses are sampled under the weights it began with."""

import threading

import pytest
import torch

from opsd.local.engine import LocalEngine
from srt.common.errors import UserError
from srt.common.files import read_json, read_jsonl
from tests.opsd.helpers.problems import TOO_LONG, problem
from tests.opsd.helpers.runs import train_run
from tests.opsd.helpers.states import equal

PROBLEMS = [problem("7", "x = 1 [A] + 1" + " [B] - 2" * (i % 5), f"p{i:02d}") for i in range(16)]
SETTINGS = {"max_num_steps": 4, "max_num_epochs": 1, "lr": 1e-3, "log_samples_period": 1}
AHEAD = SETTINGS | {"rollout_ahead": 1}
DEADLINE = 120.0  # seconds


def simulate(opened):
    """The same run, one thing after the other: the trained pairs of each step, with their KL."""
    run, engine, worker = opened.run, opened.engine, opened.rollout_worker
    with engine.sampling() as sampler:
        rollouts = worker.sample(sampler, run.problems(0), 0)
    steps = []
    for step in range(run.total_steps):
        following = []
        if step + 1 < run.total_steps:
            with engine.sampling() as sampler:  # the weights that this step begins with
                following = worker.sample(sampler, run.problems(step + 1), step + 1)
        steps.append(list(engine.update(run.build_pairs(rollouts, step)).pairs_with_kl()))
        if run.teacher_sync_due(step + 1):
            engine.sync_teacher()
        rollouts = following
    return steps


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"lora_rank": 4, "gradient_checkpointing": 1},
        {"teacher_sync": "steps", "teacher_sync_steps": 2, "train_global_batch_size": 2},
    ],
    ids=["plain", "lora", "sync"],
)
def test_a_run_is_what_sampling_and_training_in_turn_make(make_run, open_run, grader, tiny_checkpoint, more):
    in_turn = open_run(tiny_checkpoint, PROBLEMS, folder="in turn", **SETTINGS, **more)
    steps = simulate(in_turn)
    validation = {"validation": PROBLEMS[:2], "val_period": 1, "val_num_samples": 1}
    run = make_run(tiny_checkpoint, PROBLEMS, **validation, **AHEAD, **more)
    train_run(run, grader)
    lines = read_jsonl(run.output_dir / "samples.jsonl")
    assert len(lines) == len(PROBLEMS)
    for step, pairs in enumerate(steps):
        of_step = {line["id"]: line for line in lines if line["step"] == step}
        assert of_step.keys() == {trained.pair.rollout.problem.id for trained in pairs}
        for trained in pairs:
            assert of_step[trained.pair.rollout.problem.id]["kl"] == [round(kl, 5) for kl in trained.token_kl]
    in_turn.engine.export(in_turn.run.student_folder)
    student, expected = (
        folder / "model.safetensors" for folder in (run.student_folder, in_turn.run.student_folder)
    )
    assert student.read_bytes() == expected.read_bytes()


def test_steps_take_their_own_problems_and_tokens_are_one_step_old(open_run, tiny_checkpoint):
    opened = open_run(tiny_checkpoint, [*PROBLEMS[:14], TOO_LONG, TOO_LONG], **AHEAD)
    metrics = []
    for step in range(4):
        output = opened.output(step)
        assert output.problems == opened.run.problems(step)
        metrics.append(output.metrics())
    assert sum(line["rollouts"] for line in metrics) == 14
    assert [line["id"] for line in read_jsonl(opened.run.output_dir / "set_aside.jsonl")] == [TOO_LONG.id] * 2
    assert [(line["token_age"], line["token_age_max"], line["stale_tokens"]) for line in metrics] == [
        (0, 0, 0),
        *[(1, 1, 1)] * 3,
    ]
    assert "logprob_gap_age1" not in metrics[0] and metrics[0]["logprob_gap"] < 1e-4
    assert all(line["logprob_gap_age1"] > 1e-3 and "logprob_gap" not in line for line in metrics[1:])
    assert ["ahead_seconds" in line for line in metrics] == [False, True, True, True]
    assert all("carried_over" not in line for line in metrics)
    assert opened.responses.under_way == []


def test_the_next_step_is_sampled_while_this_one_trains(open_run, tiny_checkpoint):
    opened = open_run(tiny_checkpoint, PROBLEMS, **AHEAD)
    engine, sampler = opened.engine, opened.engine.sampler
    training, sampled = threading.Event(), threading.Event()
    update, poll = engine.update, sampler.poll
    met = []

    def poll_in_background(enough=None):
        in_background = threading.current_thread() is not threading.main_thread()
        if in_background:
            met.append(training.wait(DEADLINE))
        samples = poll(enough)
        if in_background:
            sampled.set()
        return samples

    def update_once_some_are_sampled(pairs):
        training.set()
        met.append(sampled.wait(DEADLINE))
        return update(pairs)

    sampler.poll, engine.update = poll_in_background, update_once_some_are_sampled
    opened.step(0)
    assert len(met) > 1 and all(met)
    assert len(opened.responses.under_way) == 4


def test_the_sampler_stops_when_training_fails(open_run, tiny_checkpoint):
    opened = open_run(tiny_checkpoint, PROBLEMS, sampler_batch=1, **AHEAD)
    engine, sampler = opened.engine, opened.engine.sampler
    begun, poll = threading.Event(), sampler.poll

    def poll_in_background(enough=None):
        if threading.current_thread() is not threading.main_thread():
            begun.set()
            return []  # would never end by itself
        return poll(enough)

    def fail(pairs):
        assert begun.wait(DEADLINE)
        raise UserError("the gradient norm is nan")

    sampler.poll, engine.update = poll_in_background, fail
    with pytest.raises(UserError, match="the gradient norm is nan"):
        opened.step(0)
    assert sampler.pending == 0


def test_what_fails_in_the_sampler_ends_the_step(open_run, tiny_checkpoint):
    opened = open_run(tiny_checkpoint, PROBLEMS, **AHEAD)
    sampler = opened.engine.sampler
    poll = sampler.poll

    def fail_in_background(enough=None):
        if threading.current_thread() is not threading.main_thread():
            raise UserError("a vLLM engine died")
        return poll(enough)

    sampler.poll = fail_in_background
    with pytest.raises(UserError, match="a vLLM engine died"):
        opened.step(0)


# A whole run ------------------------------------------------------------------------------------------------


def without_seconds(path):
    times = ("seconds", "ahead_seconds")
    return [{name: value for name, value in line.items() if name not in times} for line in read_jsonl(path)]


def test_a_killed_run_is_the_run_that_was_not(make_run, grader, tiny_checkpoint, monkeypatch, capsys):
    settings = AHEAD | {"save_period": 1, "keep_checkpoints": 1}
    straight = make_run(tiny_checkpoint, PROBLEMS, folder="straight", **settings)
    train_run(straight, grader)
    out = capsys.readouterr().out
    assert "ROLLOUT_AHEAD=1: while a step trains, the next one's responses are sampled" in out
    lines = without_seconds(straight.output_dir / "metrics.jsonl")
    summary = read_json(straight.output_dir / "run.json")["results"]["off_policy"]
    tokens = [line["rollouts"] * line["response_tokens"] for line in lines]
    assert summary.startswith(f"{1 - tokens[0] / sum(tokens):.1%} of the tokens were drawn by the weights of")

    stopped = make_run(tiny_checkpoint, PROBLEMS, folder="stopped", **settings)
    save = LocalEngine.save_checkpoint

    def save_all_but_the_third(engine, step):
        if step == 3:
            raise KeyboardInterrupt
        save(engine, step)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(LocalEngine, "save_checkpoint", save_all_but_the_third)
        train_run(stopped, grader)
    left = read_json(stopped.output_dir / "checkpoints" / "under_way_000002.json")
    assert [response["finish_reason"] is not None for response in left] == [True] * 4
    resumed = make_run(tiny_checkpoint, PROBLEMS, folder="stopped", **settings)
    train_run(resumed, grader)
    assert without_seconds(resumed.output_dir / "metrics.jsonl") == lines
    student = [run.student_folder / "model.safetensors" for run in (straight, resumed)]
    assert student[0].read_bytes() == student[1].read_bytes()


def test_the_student_trains_on_other_weights_than_those_that_sample(open_run, tiny_checkpoint):
    opened = open_run(tiny_checkpoint, PROBLEMS, **AHEAD)
    student, sampled = opened.engine.student.model, opened.engine.sampler.model
    before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    opened.step(0)
    assert equal(sampled.state_dict(), before)
    assert not equal(student.state_dict(), before)
    with opened.engine.sampling():
        assert equal(sampled.state_dict(), student.state_dict())
    assert torch.equal(student.get_output_embeddings().weight, sampled.get_output_embeddings().weight)
