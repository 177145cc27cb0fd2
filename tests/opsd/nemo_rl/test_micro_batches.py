"""An update's pairs assigned to the ranks: all of them once, as many passes for each, none too large."""

from functools import partial

import pytest

from opsd.nemo_rl.micro_batches import assign_micro_batches, micro_batch_work, rank_updates
from opsd.pairs import build_pair


@pytest.fixture(scope="module")
def pairs(make_rollout, layout):
    texts = ["7", "A 1 + 1 = 2", "A 1 + 1 = 2\nB 2 * 3 = 6\n\\boxed{6}", "\\boxed{3}", "A 9 * 9 = 1\n\\boxed{1}"]
    return [build_pair(make_rollout(text, r=index % 2), layout, 200) for index, text in enumerate(texts * 3)]


WIDTH = 8  # so narrow that attention is most of the work of these short sequences
BOTH = pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])


def size(batch, packed=False):
    lengths = [len(pair.teacher.ids) for pair in batch]
    return sum(lengths) if packed else len(batch) * max(lengths, default=0)


def rounds_of(assigned):
    return list(zip(*assigned, strict=True))


@BOTH
@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 8, 40])
@pytest.mark.parametrize("tokens", [1, 150, 10_000])
def test_every_pair_is_assigned_once_and_every_rank_makes_as_many_passes(pairs, ranks, tokens, packed):
    assigned = assign_micro_batches(pairs, ranks, tokens, WIDTH, packed)
    assert len(assigned) == ranks
    assert len({len(rank) for rank in assigned}) == 1
    assert sorted(id(p) for rank in assigned for batch in rank for p in batch) == sorted(map(id, pairs))
    for batch in (batch for rank in assigned for batch in rank):
        assert size(batch, packed) <= tokens or len(batch) <= 1


@BOTH
def test_no_rank_idles_while_another_could_share_its_pairs(pairs, packed):
    assigned = assign_micro_batches(pairs, 4, 10_000, WIDTH, packed)  # one micro-batch would hold them all
    assert all(batch for rank in assigned for batch in rank)


@BOTH
def test_a_rounds_micro_batches_are_alike(pairs, packed):
    work = partial(micro_batch_work, width=WIDTH, packed=packed)
    assigned = assign_micro_batches(pairs, 2, 150, WIDTH, packed)
    rounds = [list(map(work, batches)) for batches in rounds_of(assigned)]
    assert len(rounds) > 1
    assert all(max(now) <= min(then) for now, then in zip(rounds, rounds[1:], strict=False))


def pairs_of(make_rollout, layout, lengths):
    """Responses of so many tokens."""
    rollouts = [make_rollout(("1 " * length)[:-1], finish_reason="length") for length in lengths]
    return [build_pair(rollout, layout, 10_000) for rollout in rollouts]


def test_the_work_is_quadratic_in_the_length(make_rollout, layout):
    (pair,) = pairs_of(make_rollout, layout, [100])
    student, teacher = len(pair.student.ids), len(pair.teacher.ids)
    expected = teacher + teacher**2 / 96 + 3 * (student + student**2 / 96)
    assert micro_batch_work([pair], 8, packed=False) == pytest.approx(expected)
    assert micro_batch_work([pair], 10**9, packed=True) == pytest.approx(teacher + 3 * student)
    short, long = pairs_of(make_rollout, layout, [10, 100])
    alone = [micro_batch_work([p], 8, packed=True) for p in (short, long)]
    assert micro_batch_work([short, long], 8, packed=True) == pytest.approx(sum(alone))
    assert micro_batch_work([short, long], 8, packed=False) == pytest.approx(2 * alone[1])  # with padding


def test_ranks_share_the_quadratic_cost_and_not_the_tokens(make_rollout, layout):
    """Two micro-batches of one long pair each, and two of many short ones with as many tokens: by tokens alone, a
    round would have one of each."""
    pairs = pairs_of(make_rollout, layout, [200, 195] + [4] * 32)
    tokens = len(pairs[0].teacher.ids)
    short = len(pairs[2].teacher.ids)
    assert short * 14 < len(pairs[1].teacher.ids) < short * 18 < tokens
    rounds = rounds_of(assign_micro_batches(pairs, 2, tokens, WIDTH))
    assert [[len(batch) == 1 for batch in batches] for batches in rounds] == [[False, False], [True, True]]


def test_packed_ranks_share_the_quadratic_cost_of_one_round(make_rollout, layout):
    pairs = pairs_of(make_rollout, layout, [200, *[20] * 10])
    (round_,) = rounds_of(assign_micro_batches(pairs, 2, 2000, WIDTH, packed=True))
    assert sorted(map(len, round_)) == [1, 10]  # by tokens, the long pair would have had company
    assert size(round_[0], packed=True) != size(round_[1], packed=True)
    (round_,) = rounds_of(assign_micro_batches(pairs, 2, 2000, 10**6, packed=True))
    assert sorted(map(len, round_)) != [1, 10]


def test_workers_get_rows_of_ids_and_the_updates_one_denominator(pairs):
    updates = rank_updates(assign_micro_batches(pairs, 3, 150, WIDTH))
    assert {update.tokens for update in updates} == {sum(len(pair.targets) for pair in pairs)}
    rows = [row for update in updates for batch in update.micro_batches for row in batch]
    assert {(tuple(row.student.ids), row.student.start) for row in rows} == {
        (tuple(pair.student.ids), pair.student.start) for pair in pairs
    }
    assert all(row.student.ids[row.student.start :] == row.teacher.ids[row.teacher.start :] for row in rows)
