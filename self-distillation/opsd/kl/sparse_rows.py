"""A [V, H] sum of which few rows are non-zero: the lm_head's gradient over active vocab entries."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

# Above this fraction of active vocab entries, products over the whole vocabulary are cheaper than gathering.
MAX_ACTIVE_FRACTION = 0.4


class SparseRowAccumulator:
    """sum over chunks of gradient.T @ hidden, in `compute`: [V, H], of which only the rows of vocab entries that
    occurred are stored in a table, until they are more than MAX_ACTIVE_FRACTION; then all are."""

    def __init__(self, shape: torch.Size, compute: torch.dtype, device: torch.device, fused: bool = False) -> None:
        """fused: use the kernels of `opsd.kl.kernels.scatter_rows`."""
        self.shape, self.compute, self.device, self.fused = shape, compute, device, fused
        # Each vocab entry's row in the table, -1 where it has none. None: the table is the whole sum.
        self.slots: Int[Tensor, " V"] | None = torch.full((shape[0],), -1, dtype=torch.long, device=device)
        self.used = torch.zeros((), dtype=torch.long, device=device)  # rows of the table that belong to an entry
        self.table: Float[Tensor, "R H"] = torch.empty(0, shape[1], dtype=compute, device=device)

    def reserve(self, rows: int) -> None:
        """Grow the table to at least this many rows. `add` does not check: it never waits for the GPU."""
        if self.slots is None or rows <= len(self.table):
            return
        if rows > MAX_ACTIVE_FRACTION * self.shape[0]:
            self.to_dense()
            return
        grown = self.table.new_zeros(int(1.3 * rows) + 64, self.shape[1])
        grown[: len(self.table)] = self.table
        self.table = grown

    def add(self, entries: Int[Tensor, " F"], part: Float[Tensor, "F H"]) -> None:
        """Add to the rows of some distinct vocab entries; rows for `used` + F must have been reserved."""
        slots = self.slots
        if slots is not None and self.fused:
            from opsd.kl.kernels import scatter_rows  # Triton comes with torch's CUDA builds only

            scatter_rows.add(self.table, slots, self.used, entries, part)
            return
        if slots is not None and len(entries):
            rows = slots[entries]
            is_new = rows < 0
            new_rank = is_new.cumsum(0)
            rows = torch.where(is_new, new_rank + (self.used - 1), rows)
            slots[entries] = rows
            self.used = self.used + new_rank[-1]
            entries = rows
        self.table.index_add_(0, entries, part)

    def is_empty(self) -> bool:
        return self.slots is not None and not len(self.table)

    def start_dense(self, whole: Float[Tensor, "V H"]) -> None:
        """Take the first sum as it is, without a copy; in `compute`, unless nothing will be added."""
        self.table, self.slots = whole, None

    def to_dense(self) -> Float[Tensor, "V H"]:
        """The whole sum, to be added to in place."""
        if self.slots is not None:
            whole = torch.zeros(self.shape, dtype=self.compute, device=self.device)
            entries = self._entries(self.slots)
            whole[entries] = self.table[: len(entries)]
            self.table, self.slots = whole, None
        return self.table

    def scaled(self, factor: Float[Tensor, ""], dtype: torch.dtype) -> Float[Tensor, "V H"]:
        """The whole sum times `factor`, rounded once."""
        if self.slots is None:
            return scaled(self.table, factor, dtype, self.fused)
        if self.fused:
            from opsd.kl.kernels import scatter_rows

            return scatter_rows.scatter_rows(self.table, self.slots, factor, dtype)
        result = torch.zeros(self.shape, dtype=dtype, device=self.device)
        entries = self._entries(self.slots)
        result[entries] = (self.table[: len(entries)] * factor).to(dtype)
        return result

    @staticmethod
    def _entries(slots: Int[Tensor, " V"]) -> Int[Tensor, " U"]:
        """The vocab entries of the table's used rows, in the table's order."""
        entries = (slots >= 0).nonzero()[:, 0]
        return torch.empty_like(entries).scatter_(0, slots[entries], entries)


def scaled(x: Tensor, factor: Float[Tensor, ""], dtype: torch.dtype, fused: bool = False) -> Tensor:
    """x times `factor`, rounded once. fused: by `opsd.kl.kernels.scatter_rows`, for x of two dimensions."""
    if fused:
        from opsd.kl.kernels import scatter_rows

        return scatter_rows.scatter_rows(x, None, factor, dtype)
    return torch.mul(x, factor, out=torch.empty_like(x, dtype=dtype))
