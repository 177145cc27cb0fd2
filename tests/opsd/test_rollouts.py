"""Sampling and grading a step, with the real sampler over a tiny model and the real grader."""

import pytest

from opsd.rollouts import Rollout, RolloutWorker
from srt.common.files import JsonlLog, read_jsonl
from srt.common.models import load_model
from srt.contract.records import Problem
from srt.sampling.base import Sample, SamplingConfig
from srt.sampling.transformers import TransformersSampler

X = "x = 1 [A] + 1"  # 14 tokens as a prompt; the usual answer, a box and its end of turn, takes 6
UNREADABLE = r"\frac{1}{0}"  # a gold answer on which the verifier breaks


def problem(answer="7", x=X, id="p"):
    return Problem(id=id, x=x, answer=answer)


@pytest.fixture(scope="module")
def sampler(coin_checkpoint, layout):
    settings = SamplingConfig(1.0, 1.0, tuple(layout.eot_ids))
    return TransformersSampler(load_model(str(coin_checkpoint)), layout.tokenizer.pad_token_id, settings, 64)


@pytest.fixture
def rollouts_of(layout, sampler, grader, tmp_path):
    """rollouts_of(problems, ...) are the rollouts and the lines of set_aside.jsonl."""

    def run(problems, *, purpose="train", step=0, max_total_tokens=24, seed=0):
        log = JsonlLog(tmp_path / "set_aside.jsonl")
        worker = RolloutWorker(layout, grader, max_total_tokens, 2 * max_total_tokens, seed, log)
        rollouts = worker.sample(sampler, problems, step, purpose)
        log.close()
        return rollouts, read_jsonl(log.path)

    return run


def test_rewards_are_the_verifiers(rollouts_of, layout):
    rollouts, set_aside = rollouts_of([problem("7")] * 12 + [problem("8")] * 12)
    assert not set_aside
    assert {rollout.r for rollout in rollouts} == {0, 1}
    for rollout in rollouts:
        assert rollout.r == (f"\\boxed{{{rollout.problem.answer}}}" in layout.decode(rollout.y))


def test_rollouts_come_in_the_order_of_the_problems_and_hold_what_was_sampled(rollouts_of, layout):
    problems = [problem(x=f"x = {digit} [A] + 1", id=str(digit)) for digit in range(8)]
    rollouts, _ = rollouts_of(problems)
    assert [rollout.problem for rollout in rollouts] == problems
    for rollout in rollouts:
        assert rollout.chat == layout.chat(rollout.problem.x)
        assert len(rollout.logprobs) == len(rollout.y)
        assert (rollout.y[-1] in layout.eot_ids) == (rollout.finish_reason == "stop")


def test_a_prompt_without_room_for_a_response_is_set_aside(rollouts_of, layout):
    long = problem(x=" ".join([X] * 20), id="long")
    rollouts, set_aside = rollouts_of([problem(id="a"), long, problem(id="b")], step=5)
    assert [rollout.problem.id for rollout in rollouts] == ["a", "b"]
    [line] = set_aside
    assert (line["step"], line["purpose"], line["id"]) == (5, "train", "long")
    assert line["reason"] == (f"the prompt has {len(layout.chat(long.x))} tokens, MAX_TOTAL_SEQUENCE_LENGTH is 24")


def test_a_sample_on_which_the_verifier_breaks_is_set_aside_with_its_text(rollouts_of):
    rollouts, set_aside = rollouts_of([problem(UNREADABLE, id="bad"), problem("7", id="good")])
    assert [rollout.problem.id for rollout in rollouts] == ["good"]
    [line] = set_aside
    assert line["id"] == "bad" and line["reason"].startswith("the verifier failed: ")
    assert "boxed" in line["text"]


def test_nothing_but_set_aside_problems_gives_no_rollouts(rollouts_of):
    rollouts, set_aside = rollouts_of([problem()] * 3, max_total_tokens=4)
    assert rollouts == [] and len(set_aside) == 3


def test_a_response_that_was_cut_off_is_wrong_without_grading(rollouts_of, layout):
    room = 1
    rollouts, set_aside = rollouts_of([problem(UNREADABLE)] * 4, max_total_tokens=len(layout.chat(X)) + room)
    assert not set_aside
    assert [(r.r, r.finish_reason, len(r.y)) for r in rollouts] == [(0, "length", room)] * 4


def test_prompt_and_response_keep_to_the_limit_together(rollouts_of, layout):
    problems = [problem(x=X), problem(x=f"{X} [B] - 2")]
    limit = max(len(layout.chat(p.x)) for p in problems) + 2
    rollouts, _ = rollouts_of(problems, max_total_tokens=limit)
    assert all(len(r.chat) + len(r.y) <= limit for r in rollouts)


def responses(rollouts_of, **arguments):
    rollouts, _ = rollouts_of([problem()] * 16, **arguments)
    return [tuple(rollout.y) for rollout in rollouts]


def test_the_same_step_gives_the_same_samples(rollouts_of):
    assert responses(rollouts_of) == responses(rollouts_of)


@pytest.mark.parametrize("changed", [{"step": 1}, {"purpose": "validation"}, {"seed": 1}], ids=str)
def test_samples_depend_on_step_purpose_and_seed(rollouts_of, changed):
    assert responses(rollouts_of, **changed) != responses(rollouts_of)


def test_the_same_problem_is_sampled_anew_at_each_place(rollouts_of):
    assert len(set(responses(rollouts_of))) > 1


def test_a_sample_does_not_depend_on_its_neighbours(rollouts_of):
    long = problem(x=f"{X} [B] - 2", id="long")
    together, _ = rollouts_of([problem(id="a"), long, problem(id="b")])
    alone, _ = rollouts_of([problem(id="a")])
    assert together[0].y == alone[0].y


def test_responses_are_revised_after_the_phrase_of_their_reward_and_graded(layout, grader, tmp_path):
    """A sampler that repeats what it is asked for shows the prompts; its answer is right for "right" alone."""
    prompts = []

    class Scripted:
        def submit(self, key, request):
            prompts.append(request.prompt_ids)
            y = layout.with_eot(layout.tokenizer.encode("\\boxed{7}"))
            self.done = [*getattr(self, "done", []), (key, Sample(y, "stop", [0.0] * len(y)))]

        def poll(self):
            done, self.done = self.done, []
            return done

    rollouts = [
        Rollout(problem(answer), layout.chat(X), layout.tokenizer.encode("1"), [0.0], "length", r)
        for answer, r in (("7", 0), ("8", 1), ("7", 1))
    ]
    log = JsonlLog(tmp_path / "set_aside.jsonl")
    worker = RolloutWorker(layout, grader, 24, 1000, 0, log)
    revised = worker.revise(Scripted(), rollouts, 0, "validation")
    assert {r: [revision.r for revision in revisions] for r, revisions in revised.items()} == {0: [1], 1: [0, 1]}
    assert prompts == [layout.chat(X) + layout.tokenizer.encode("1") + layout.cue(r) for r in (0, 1, 1)]

    short = RolloutWorker(layout, grader, 24, len(prompts[0]), 0, log)
    assert short.revise(Scripted(), rollouts[:1], 0, "validation") == {0: [], 1: []}
    [line] = read_jsonl(log.path)
    assert "MAX_TEACHER_TOKENS allows" in line["reason"]
