"""OVER_ISSUE: every response is trained on once, in bounded time, with tokens of the weights that drew them."""

import pytest
import torch

from opsd import response_queue
from opsd.local.engine import LocalEngine
from opsd.problem_order import ProblemOrder
from opsd.response_queue import ResponseQueue
from srt.common.errors import UserError
from srt.common.files import read_json, read_jsonl
from tests.opsd.helpers.problems import TOO_LONG, problem
from tests.opsd.helpers.runs import train_run


def with_parts(parts, id):
    """A prompt of 14 + 3 x parts tokens. Of 40, the tiny model's response mostly takes what is left."""
    return problem("7", "x = 1 [A] + 1" + " [B] - 2" * parts, id)


PARTS = (0, 4, 3, 6, 2, 6, 1, 6, 6, 6)
PROBLEMS = [with_parts(PARTS[i % len(PARTS)], f"p{i:02d}") for i in range(24)]
SETTINGS = {"num_prompts_per_step": 4, "max_num_steps": 6, "max_num_epochs": 1, "lr": 1e-2}


class Steps:
    """A run's steps, with the weights that each of them sampled from moved at random."""

    def __init__(self, opened):
        self.opened, self.run = opened, opened.run
        self.taken, self.weights = [], []

    def take_all(self):
        for step in range(len(self.taken), self.run.total_steps):
            self.step(step)
        return self

    def step(self, step):
        model = self.opened.engine.student.model
        generator = torch.Generator().manual_seed(step)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
        self.weights.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        self.taken.append(self.opened.responses.take(self.opened.engine, step))

    @property
    def ages(self):
        return [max(r.ages) for taken in self.taken for r in taken.rollouts]


@pytest.fixture
def steps(open_run, tiny_checkpoint):
    """steps(over_issue=0.5) are all steps of a run."""

    def make(problems=PROBLEMS, **settings):
        return Steps(open_run(tiny_checkpoint, problems, **(SETTINGS | settings)))

    return make


def ids(steps):
    return [problem.id for taken in steps.taken for problem in taken.problems]


def test_a_strictly_on_policy_step_is_what_the_worker_samples_for_its_problems(steps):
    taken = steps(over_issue=0)
    taken.step(0)
    [step] = taken.taken
    opened = taken.opened
    with opened.engine.sampling() as sampler:
        expected = opened.rollout_worker.sample(sampler, opened.run.problems(0), 0, "train")
    assert step.problems == opened.run.problems(0) and step.rollouts == expected
    assert step.rollouts[0].ages is None and step.metrics == {}
    assert opened.responses.under_way == [] and opened.responses.describe() is None


@pytest.mark.parametrize("over_issue", [0.25, 0.5, 1])
def test_every_problem_is_trained_on_exactly_once_and_each_step_takes_its_number(steps, over_issue):
    made = steps(over_issue=over_issue).take_all()
    assert sorted(ids(made)) == [f"p{i:02d}" for i in range(24)]
    assert [len(taken.rollouts) for taken in made.taken] == [4] * 6
    ahead = int(4 * over_issue)
    assert [taken.metrics["carried_over"] for taken in made.taken] == [ahead] * 5 + [0]
    order = {p.id: place for place, p in enumerate(p for step in range(6) for p in made.run.problems(step))}
    for taken in made.taken:
        places = [order[p.id] for p in taken.problems]
        assert places == sorted(places)
    assert ids(made) != [p.id for step in range(6) for p in made.run.problems(step)]  # some changed their step
    assert max(made.ages) > 0


def test_the_first_step_takes_the_responses_that_finish_first(steps):
    made = steps(over_issue=1)
    made.step(0)
    [taken] = made.taken
    lengths = [len(r.y) for r in taken.rollouts]
    left = [len(response.y) for response in made.opened.responses.under_way]
    assert len(left) == 4 and set(left) == {
        max(lengths)
    }  # the others were stopped when the last of the four ended


def test_tokens_and_logprobs_are_those_of_the_weights_of_their_step(steps):
    made = steps(over_issue=1).take_all()
    model = made.opened.engine.student.model
    checked = set()
    for step, taken in enumerate(made.taken):
        for rollout in taken.rollouts:
            assert len(rollout.ages) == len(rollout.y) == len(rollout.logprobs)
            assert rollout.ages == sorted(rollout.ages, reverse=True)
            assert len(rollout.chat) + len(rollout.y) <= 40
            for age in set(rollout.ages):
                model.load_state_dict(made.weights[step - age])
                with torch.no_grad():
                    logits = model(torch.tensor([rollout.chat + rollout.y])).logits[0].float()
                logprobs = logits.log_softmax(-1)[len(rollout.chat) - 1 : -1]
                expected = logprobs.gather(-1, torch.tensor(rollout.y)[:, None])[:, 0]
                gap = (expected - torch.tensor(rollout.logprobs)).abs()
                of_age = torch.tensor(rollout.ages) == age
                assert gap[of_age].max() < 1e-4
                if not of_age.all():
                    assert gap[~of_age].mean() > 1e-2  # the other weights are told apart
                checked.add(age)
    assert len(checked) > 1


def test_a_rest_is_asked_for_with_its_beginning_what_is_left_of_the_limit_and_another_seed(steps):
    made = steps(over_issue=1)
    submitted = []
    sampler = made.opened.engine.sampler
    submit = sampler.submit
    sampler.submit = lambda key, request: (submitted.append((key, request)), submit(key, request))
    made.step(0)
    first = dict(submitted)
    under_way = [response for response in made.opened.responses.under_way if not response.is_finished]
    begun = {response.place: list(response.y) for response in under_way if response.y}
    submitted.clear()
    made.step(1)
    again = dict(submitted)
    assert begun
    for place, y in begun.items():
        assert again[place].prompt_ids == first[place].prompt_ids + y
        assert again[place].max_tokens == first[place].max_tokens - len(y)
    assert len({request.seed for request in [*first.values(), *again.values()]}) == len(first) + len(again)


@pytest.mark.parametrize(("limit", "oldest"), [(1, 1), (2, 2), (100, 3)])
def test_a_response_is_waited_for_after_a_number_of_steps(steps, monkeypatch, limit, oldest):
    """One response of 26 tokens among those of 8: without a limit it would take more steps."""
    monkeypatch.setattr(response_queue, "MAX_STEPS_UNDER_WAY", limit)
    problems = [with_parts(6, f"short {i}") for i in range(24)]
    problems[ProblemOrder(24, 4, seed=0).step(0)[0]] = with_parts(0, "long")
    made = steps(problems, over_issue=0.25)
    made.take_all()
    assert max(made.ages) == oldest
    assert sorted(ids(made)) == sorted(p.id for p in made.run.train_set.problems)


def test_prompts_without_room_take_a_place_and_are_set_aside_once(steps):
    made = steps([*PROBLEMS[:22], TOO_LONG, TOO_LONG], over_issue=0.5).take_all()
    assert sorted(ids(made)) == sorted(p.id for p in made.run.train_set.problems)
    assert sum(len(taken.rollouts) for taken in made.taken) == 22
    assert [line["id"] for line in read_jsonl(made.run.output_dir / "set_aside.jsonl")] == [TOO_LONG.id] * 2


def test_metrics_are_those_of_the_ages(steps):
    made = steps(over_issue=0.5).take_all()
    for taken in made.taken:
        ages = [age for rollout in taken.rollouts for age in rollout.ages]
        assert taken.metrics["token_age"] == pytest.approx(sum(ages) / len(ages))
        assert taken.metrics["token_age_max"] == max(ages)
        assert taken.metrics["stale_tokens"] == pytest.approx(sum(age > 0 for age in ages) / len(ages))
    assert made.taken[0].metrics["stale_tokens"] == 0 < made.taken[2].metrics["stale_tokens"]


# A whole run --------------------------------------------------------------------------------------------

RUN = SETTINGS | {"over_issue": 0.5, "save_period": 2, "log_samples_period": 1, "lr": 1e-3, "keep_checkpoints": 1}


def without_seconds(path):
    return [{name: value for name, value in line.items() if name != "seconds"} for line in read_jsonl(path)]


def test_a_killed_run_trains_on_everything_once_and_is_the_run_that_was_not(
    make_run, grader, tiny_checkpoint, monkeypatch, capsys
):
    straight = make_run(tiny_checkpoint, PROBLEMS, folder="straight", **RUN)
    train_run(straight, grader)
    out = capsys.readouterr().out
    assert "OVER_ISSUE=0.5: a step takes the first 4 of up to 6 responses under way" in out
    lines = without_seconds(straight.output_dir / "metrics.jsonl")
    assert sum(line["trained_responses"] for line in lines) == 24
    assert any(line.get("logprob_gap_age1", 0) > 1e-3 for line in lines)
    assert all(line["logprob_gap"] < 1e-4 for line in lines)

    tokens = [line["rollouts"] * line["response_tokens"] for line in lines]
    stale = sum(n * line["stale_tokens"] for n, line in zip(tokens, lines, strict=True)) / sum(tokens)
    summary = read_json(straight.output_dir / "run.json")["results"]["off_policy"]
    assert 0 < stale and summary.startswith(
        f"{stale:.1%} of the tokens were drawn by the weights of earlier steps"
    )
    assert summary in out

    stopped = make_run(tiny_checkpoint, PROBLEMS, folder="stopped", **RUN)
    save = LocalEngine.save_checkpoint

    def save_all_but_the_second(engine, step):  # what is under way has just been written
        if step == 4:
            raise KeyboardInterrupt
        save(engine, step)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(LocalEngine, "save_checkpoint", save_all_but_the_second)
        train_run(stopped, grader)
    checkpoints = stopped.output_dir / "checkpoints"
    assert sorted(path.name for path in checkpoints.iterdir())[0] == "step_000002"
    left = read_json(checkpoints / "under_way_000002.json")
    assert len(left) == 2 and any(response["y"] for response in left)
    resumed = make_run(tiny_checkpoint, PROBLEMS, folder="stopped", **RUN)
    train_run(resumed, grader)
    assert without_seconds(resumed.output_dir / "metrics.jsonl") == lines
    student = [run.student_folder / "model.safetensors" for run in (straight, resumed)]
    assert student[0].read_bytes() == student[1].read_bytes()


def test_without_the_file_of_what_was_under_way_a_run_does_not_continue(open_run, tiny_checkpoint):
    opened = open_run(tiny_checkpoint, PROBLEMS, **RUN)
    opened.step(0)
    opened.responses.save(1)
    worker = opened.rollout_worker
    again = ResponseQueue(opened.run, worker, 1)
    assert again.under_way == opened.responses.under_way
    with pytest.raises(UserError, match=r"under_way_000002.json: it should hold the responses .* under way"):
        ResponseQueue(opened.run, worker, 2)


def test_a_run_that_ends_early_lists_what_it_asked_for(make_run, tiny_checkpoint):
    run = make_run(tiny_checkpoint, PROBLEMS, **RUN)
    in_order = [p.id for step in range(6) for p in run.problems(step)]
    assert {p.id for p in run.used_problems(2)} == set(in_order[:10])  # two of the third step were begun
    assert {p.id for p in run.used_problems(6)} == set(in_order)
    assert run.used_problems(0) == []
