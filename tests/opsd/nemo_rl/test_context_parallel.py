"""Which rank of context parallelism has which position of a row, and what is put together again."""

import pytest
import torch

from opsd.nemo_rl.worker.context_parallel import in_order, owners, take_part

RANKS = pytest.mark.parametrize("ranks", [2, 3, 4])


@RANKS
def test_every_position_has_one_owner_at_its_place(ranks):
    length = 4 * ranks
    row = torch.arange(length)
    parts = [take_part(row, rank, ranks) for rank in range(ranks)]
    rank_of, place = owners(row, length, ranks)
    assert [int(parts[rank][at]) for rank, at in zip(rank_of, place, strict=True)] == row.tolist()
    assert sorted(torch.cat(parts).tolist()) == row.tolist()


@RANKS
def test_gathered_parts_are_put_in_order(ranks):
    row = torch.randn(4 * ranks, 3)
    gathered = torch.cat([take_part(row, rank, ranks) for rank in range(ranks)])
    assert torch.equal(in_order(gathered, ranks), row)


@RANKS
def test_all_ranks_have_the_same_causal_work(ranks):
    work = {int((take_part(torch.arange(8 * ranks), rank, ranks) + 1).sum()) for rank in range(ranks)}
    assert len(work) == 1


def test_rows_are_split_along_another_dimension():
    ids = torch.arange(16).view(2, 8)
    assert take_part(ids, 1, 2, dim=1).tolist() == [[2, 3, 4, 5], [10, 11, 12, 13]]
