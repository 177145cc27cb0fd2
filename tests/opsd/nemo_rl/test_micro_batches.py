"""Dealing an update's pairs to the ranks: all of them once, as many passes for each, none too large."""

import pytest

from opsd.nemo_rl.micro_batches import assign_micro_batches, rank_updates
from opsd.pairs import build_pair


@pytest.fixture(scope="module")
def pairs(make_rollout, layout):
    texts = ["7", "A 1 + 1 = 2", "A 1 + 1 = 2\nB 2 * 3 = 6\n\\boxed{6}", "\\boxed{3}", "A 9 * 9 = 1\n\\boxed{1}"]
    return [build_pair(make_rollout(text, r=index % 2), layout, 200) for index, text in enumerate(texts * 3)]


def size(batch):
    return len(batch) * max((len(pair.teacher.ids) for pair in batch), default=0)


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 8, 40])
@pytest.mark.parametrize("tokens", [1, 150, 10_000])
def test_every_pair_is_assigned_once_and_every_rank_makes_as_many_passes(pairs, ranks, tokens):
    assigned = assign_micro_batches(pairs, ranks, tokens)
    assert len(assigned) == ranks
    assert len({len(rank) for rank in assigned}) == 1
    assert sorted(id(p) for rank in assigned for batch in rank for p in batch) == sorted(map(id, pairs))
    for batch in (batch for rank in assigned for batch in rank):
        assert size(batch) <= tokens or len(batch) == 1


def test_no_rank_idles_while_another_could_share_its_pairs(pairs):
    assigned = assign_micro_batches(pairs, 4, tokens=10_000)  # one micro-batch would hold them all
    assert all(batch for rank in assigned for batch in rank)


def test_a_rounds_micro_batches_are_alike(pairs):
    rounds = list(zip(*assign_micro_batches(pairs, 2, tokens=150), strict=True))
    largest = [max(map(size, batches)) for batches in rounds]
    assert largest == sorted(largest)
    assert all(max(map(size, now)) <= min(map(size, then)) for now, then in zip(rounds, rounds[1:], strict=False))


def test_workers_get_rows_of_ids_and_the_updates_one_denominator(pairs):
    updates = rank_updates(assign_micro_batches(pairs, 3, tokens=150))
    assert {update.tokens for update in updates} == {sum(len(pair.targets) for pair in pairs)}
    rows = [row for update in updates for batch in update.micro_batches for row in batch]
    assert {(tuple(row.student.ids), row.student.start) for row in rows} == {
        (tuple(pair.student.ids), pair.student.start) for pair in pairs
    }
    assert all(row.student.ids[row.student.start :] == row.teacher.ids[row.teacher.start :] for row in rows)
