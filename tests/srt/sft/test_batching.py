"""Which tuples each update holds, and how they are split into passes, for any number of processes."""

import random

import pytest

from srt.sft.batching import plan_packed, plan_padded, plan_updates

LENGTHS = [random.Random(0).choice([20, 50, 100, 400, 900]) + n for n in range(50)]


def passes_of(plan, update: int) -> list[list[int]]:
    size = plan.passes_per_update * plan.processes
    return plan.passes[update * size : (update + 1) * size]


def test_every_epoch_holds_each_tuple_once_in_a_new_order():
    updates = plan_updates(50, 2, 8, seed=0)
    assert [len(update) for update in updates] == ([8] * 6 + [2]) * 2
    first, second = (sum(updates[part : part + 7], []) for part in (0, 7))
    assert sorted(first) == sorted(second) == list(range(50)) and first != second != list(range(50))


def test_the_order_depends_only_on_the_seed():
    assert plan_updates(50, 1, 8, seed=1) == plan_updates(50, 1, 8, seed=1) != plan_updates(50, 1, 8, seed=2)


@pytest.mark.parametrize("epochs, updates", [(0.001, 1), (0.5, 4), (1, 7), (1.5, 11), (0.1 + 0.2, 3)])
def test_a_fraction_of_an_epoch_is_that_fraction_of_its_updates_rounded_up(epochs, updates):
    assert len(plan_updates(50, epochs, 8, seed=0)) == updates


@pytest.mark.parametrize("processes", [1, 2, 3, 8])
@pytest.mark.parametrize("packed", [True, False])
def test_an_update_trains_on_its_tuples_regardless_of_the_number_of_processes(processes, packed):
    updates = plan_updates(50, 1, 16, seed=0)
    plan = (plan_packed if packed else plan_padded)(updates, LENGTHS, 1200 if packed else 3, processes)
    assert len(plan.passes) == len(updates) * plan.passes_per_update * processes
    for number, update in enumerate(updates):
        assert sorted(sum(passes_of(plan, number), [])) == sorted(update)


@pytest.mark.parametrize("processes", [1, 3])
def test_packed_passes_are_limited_in_tokens_and_padded_ones_in_tuples(processes):
    updates = plan_updates(50, 1, 16, seed=0)
    packed = plan_packed(updates, LENGTHS, 1200, processes)
    assert max(sum(LENGTHS[index] for index in part) for part in packed.passes) <= 1200
    padded = plan_padded(updates, LENGTHS, 3, processes)
    assert max(map(len, padded.passes)) <= 3


def test_a_tuple_above_the_limit_gets_a_pass_to_itself():
    plan = plan_packed([[0, 1, 2]], [5000, 40, 50], 100, 1)
    assert plan.passes == [[0], [2, 1]]


def test_a_tuple_above_the_limit_leaves_the_limit_to_all_others():
    plan = plan_packed([[0, 1, 2, 3, 4], [1, 2, 3, 4]], [5000, 60, 60, 30, 30], 100, 1)
    others = [part for part in plan.passes if part and part != [0]]
    assert [0] in plan.passes
    assert all(sum([5000, 60, 60, 30, 30][index] for index in part) <= 100 for part in others)


def test_the_processes_have_similar_loads_in_each_pass():
    plan = plan_packed(plan_updates(50, 1, 25, seed=0), LENGTHS, 3000, 2)
    loads = [sum(LENGTHS[index] for index in part) for part in plan.passes]
    assert all(abs(a - b) < 0.2 * a for a, b in zip(loads[::2], loads[1::2], strict=True)), loads


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("packed", [True, False])
def test_an_update_has_only_the_passes_it_needs_and_begins_with_those_it_skips(processes, packed):
    lengths = [90] * 8 + [10] * 8
    updates = [list(range(8)), list(range(8, 16)), [15]]
    plan = plan_packed(updates, lengths, 100, processes) if packed else plan_padded(updates, lengths, 1, processes)
    assert plan.passes_per_update == 8 // processes
    needed = [8 // processes, 1, 1] if packed else [8 // processes, 8 // processes, 1]
    for number, passes in enumerate(needed):
        skipped = (plan.passes_per_update - passes) * processes
        size = plan.passes_per_update * processes
        assert plan.skipped[number * size : (number + 1) * size] == [True] * skipped + [False] * (size - skipped)
        assert not any(passes_of(plan, number)[:skipped])


def test_fewer_tuples_than_processes_leave_empty_passes_at_the_end():
    for plan in (plan_packed([[3, 4]], LENGTHS, 1000, 4), plan_padded([[3, 4]], LENGTHS, 1, 4)):
        assert sorted(map(len, plan.passes[:2])) == [1, 1] and plan.passes[2:] == [[], []]
