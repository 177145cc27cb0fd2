"""Which kept tuples a collection writes: the first in problem order, with a given share from right responses."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from srt.contract.records import SampleKey


class KeptKey(NamedTuple):
    """A kept tuple: its key and the reward r of its y_init. Sorts in problem order."""

    key: SampleKey
    r: int


@dataclass(frozen=True)
class Selection:
    """`target` tuples, of which round(target * right_share) revise a right y_init; None: as they come."""

    target: int
    right_share: float | None = None

    def quotas(self, total: int) -> tuple[int, int]:
        """Of `total` tuples: those after wrong (r = 0) and after right (r = 1) responses. Needs a share."""
        assert self.right_share is not None
        right = round(total * self.right_share)
        return total - right, right

    def counted(self, kept: Sequence[int]) -> int:
        """How many of the kept tuples, given as (wrong, right), count towards the target."""
        if self.right_share is None:
            return min(sum(kept), self.target)
        return sum(min(count, quota) for count, quota in zip(kept, self.quotas(self.target), strict=True))

    def is_complete(self, kept: Sequence[int]) -> bool:
        return self.counted(kept) == self.target

    def choose(self, kept: list[KeptKey]) -> list[KeptKey]:
        """The tuples to write, from all kept ones in order: as many as there can be with the share."""
        if self.right_share is None:
            return kept[: self.target]
        by_reward = [[entry for entry in kept if entry.r == r] for r in (0, 1)]
        total = next(
            total
            for total in range(self.target, -1, -1)
            if all(len(entries) >= quota for entries, quota in zip(by_reward, self.quotas(total), strict=True))
        )
        wrong, right = (entries[:quota] for entries, quota in zip(by_reward, self.quotas(total), strict=True))
        return sorted(wrong + right)
