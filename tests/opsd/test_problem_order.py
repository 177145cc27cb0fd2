"""Which problems a step uses."""

import pytest

from opsd.problem_order import ProblemOrder


def epoch_of(order, epoch):
    """The problems of one pass, collected from the steps that hold them."""
    first, last = epoch * order.count, (epoch + 1) * order.count
    steps = range(first // order.per_step, -(-last // order.per_step))
    places = [(step * order.per_step + i, p) for step in steps for i, p in enumerate(order.step(step))]
    return [problem for place, problem in places if first <= place < last]


@pytest.mark.parametrize("per_step", [1, 3, 7, 10, 25])
def test_each_pass_uses_every_problem_once(per_step):
    order = ProblemOrder(10, per_step, seed=4)
    for epoch in range(4):
        assert sorted(epoch_of(order, epoch)) == list(range(10))


def test_passes_are_shuffled_and_differ():
    order = ProblemOrder(50, 5, seed=4)
    passes = [tuple(epoch_of(order, epoch)) for epoch in range(4)]
    assert len({*passes, tuple(range(50))}) == 5


def test_a_step_depends_on_seed_and_number_alone():
    straight = ProblemOrder(10, 4, seed=1)
    wanted = [straight.step(step) for step in range(20)]
    for step in (19, 3, 11, 0):  # as a run does that starts late, or jumps
        assert ProblemOrder(10, 4, seed=1).step(step) == wanted[step]
    assert [ProblemOrder(10, 4, seed=2).step(step) for step in range(20)] != wanted


@pytest.mark.parametrize(
    ("count", "per_step", "max_steps", "max_epochs", "wanted"),
    [
        (1000, 10, 7, 5, 7),  # steps end it
        (100, 10, 1000, 5, 50),  # passes end it
        (25, 10, 1000, 1, 3),  # the last step of the last pass is filled up from the next one
        (3, 128, 1000, 1, 1),  # fewer problems than a step holds
        (3, 128, 1000, 100, 3),
    ],
)
def test_total_steps(count, per_step, max_steps, max_epochs, wanted):
    assert ProblemOrder(count, per_step, seed=0).total_steps(max_steps, max_epochs) == wanted


def test_few_problems_come_again_within_a_step():
    step = ProblemOrder(3, 8, seed=0).step(0)
    assert len(step) == 8
    assert all(2 <= step.count(problem) <= 3 for problem in range(3))
