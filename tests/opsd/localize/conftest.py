"""Graded responses of the quickstart's world, as if sampled."""

import random

import pytest

from opsd.localize.responses import GradedResponse
from opsd.rollouts import Rollout
from quickstart.world import TRAIN_CLASS, World, distinct_problems, is_correct
from srt.contract.records import Problem


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
