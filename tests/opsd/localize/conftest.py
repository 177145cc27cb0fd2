"""Scored responses made by hand, and a small world of graded responses on real checkpoints."""

import random

import pytest

from opsd.localize.records import ScoredResponse, VariantScores
from opsd.localize.responses import GradedResponse
from opsd.rollouts import Rollout
from quickstart.world import TRAIN_CLASS, World, distinct_problems, is_correct
from srt.contract.records import Problem, Response, as_line, pack_ids


def scored(tokens, kl, r=0, *, teacher_rank=None, x="a problem", moved=None, response=0, problem=0):
    """A response with these tokens and KL; everything else is plain and consistent in length."""
    count = len(tokens)
    ones = [1] * count
    flat = VariantScores(list(kl), [-1.0] * count, list(moved or [0.0] * count))
    others = ("P_1" if r == 0 else "P_0", "none", "neutral")
    return ScoredResponse(
        problem=problem,
        response=response,
        id=f"id {problem}",
        x=x,
        answer="7",
        r=r,
        finish_reason="stop",
        p_r="the phrase",
        ids=list(range(count)),
        tokens=list(tokens),
        kl=list(kl),
        student_entropy=[0.5] * count,
        teacher_entropy=[0.4] * count,
        student_logprob=[-0.7] * count,
        teacher_logprob=[-0.9] * count,
        student_rank=ones,
        teacher_rank=list(teacher_rank or ones),
        alternatives=[[(index, 0.5, 0.4), (99, 0.1, 0.3)] for index in range(count)],
        variants={name: flat for name in others},
    )


@pytest.fixture(scope="session")
def world_problems():
    return distinct_problems(World(0).rng("localize"), (TRAIN_CLASS,), 40)


@pytest.fixture(scope="session")
def graded(layout, world_problems):
    """Responses of the world with slips, right and wrong, as if sampled; the last one is cut off."""
    rng, responses = random.Random(0), []
    for index, problem in enumerate(world_problems[:12]):
        text = World(0).attempt(problem, rng)
        y = layout.with_eot(layout.tokenizer.encode(text))
        cut_off = index == 11
        rollout = Rollout(
            problem=Problem(f"world {index}", problem.text, problem.answer),
            chat=layout.chat(problem.text),
            y=y[:9] if cut_off else y,
            logprobs=[],
            finish_reason="length" if cut_off else "stop",
            r=int(is_correct(text, problem) and not cut_off),
        )
        responses.append(GradedResponse(index, 0, rollout))
    assert {graded.rollout.r for graded in responses} == {0, 1}
    return responses


def attempts_line(graded: GradedResponse, layout) -> dict:
    """The line of attempts.jsonl in which evaluate.sh would have logged it."""
    rollout = graded.rollout
    response = Response(
        problem_idx=graded.problem,
        response_idx=graded.response,
        id=rollout.problem.id,
        source="",
        x=rollout.problem.x,
        ground_truth=rollout.problem.answer,
        y_init=layout.decode(rollout.y),
        y_init_ids=pack_ids(rollout.y),
        y_init_tokens=len(rollout.y),
        y_init_correct=bool(rollout.r),
        y_init_extracted="",
        y_init_reason="",
        y_init_finish_reason=rollout.finish_reason,
        y_init_seed=0,
    )
    return as_line(response)
