"""Work split into parts of nearly equal cost."""

import random

import pytest

from srt.common.balance import balance, fewest_parts


def totals(parts, cost):
    return [sum(cost[index] for index in part) for part in parts]


def test_parts_have_nearly_equal_cost_and_the_most_expensive_one_comes_first():
    cost = [float(random.Random(0).randrange(1, 100)) for _ in range(60)]
    parts = balance(range(60), cost, 4)
    assert sorted(sum(parts, [])) == list(range(60))
    assert totals(parts, cost) == sorted(totals(parts, cost), reverse=True)
    assert max(totals(parts, cost)) - min(totals(parts, cost)) <= max(cost)


def test_only_the_items_that_are_given_are_split():
    assert balance([3, 1], [100.0, 2.0, 100.0, 1.0], 2) == [[1], [3]]


@pytest.mark.parametrize("multiple", [1, 2, 3])
def test_there_are_as_few_parts_as_keep_to_the_limit_in_a_multiple(multiple):
    lengths = [60, 40, 55, 45, 50, 50]
    parts = fewest_parts(range(6), lengths, 100, multiple)
    assert len(parts) == 3 if multiple in (1, 3) else len(parts) == 4
    assert max(totals(parts, lengths)) <= 100


def test_the_limit_is_in_tokens_while_the_cost_is_balanced():
    lengths, cost = [100, 20, 20, 20, 20, 20], [9.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    assert totals(fewest_parts(range(6), lengths, 120, 2), lengths) == [100, 100]
    assert totals(fewest_parts(range(6), lengths, 120, 2, cost), cost) == [9.0, 5.0]
    cost = [9.0, 3.0, 3.0, 3.0, 3.0, 3.0]
    assert totals(fewest_parts(range(6), lengths, 120, 2, cost), cost) == [12.0, 12.0]


def test_an_item_above_the_limit_is_a_part_by_itself_and_nothing_can_be_empty_of_work():
    assert fewest_parts([0, 1, 2], [5000, 40, 50], 100) == [[0], [2, 1]]
    assert fewest_parts([], [], 100) == [[]]
