"""The way back from a chunk's logits: gradients of the hidden states, the head and the bias, over few columns.

The gradient of a logit is p (log p/q - KL): nearly all columns of a chunk carry nothing. The two products of the
backward pass then run over the columns that were flagged, and the head's gradient is summed, in fp32, for the
rows of the head that any chunk has flagged. The whole [V, H] appears only where autograd wants it.
"""

# ruff: noqa: F722 - the strings in annotations are jaxtyping shapes

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

# Beyond this share of flagged columns the products over all of them are cheaper than gathering.
MAX_SHARE = 0.4
# The part of a chunk's gradient (norm of its logits' gradient) that may be dropped, at most.
MAX_DROPPED = 2e-3
# After a chunk of which no column could be dropped, so many chunks take all columns without looking.
PATIENCE = 7


def flag_columns(
    gradient: Float[Tensor, "N V"], eps: float, max_dropped: float, total: Callable[[Tensor], Tensor]
) -> Bool[Tensor, " V"]:
    """True for each column in which |gradient| exceeds eps times the root mean square of the rows' norms; all
    when the entries below hold more than `max_dropped` of the norm. total: sums over a sharded vocabulary."""
    square = gradient.square()
    norm2 = total(square.sum())
    below = square <= eps**2 * norm2 / len(gradient)  # what is not finite is not below
    dropped = square.mul_(below).sum()
    return (~below).any(0) | ~(dropped <= max_dropped**2 * norm2)


class ColumnSums:
    """sum over chunks of chunk.T @ hidden, one row for each column of the logits that occurred: [V, H] in
    `compute`, as long as few rows occur in a table of those alone."""

    def __init__(self, shape: torch.Size, compute: torch.dtype, device: torch.device) -> None:
        self.shape, self.compute, self.device = shape, compute, device
        # Of the table's first rows, in order of arrival. None: the table is the whole sum.
        self.columns: Int[Tensor, " U"] | None = torch.empty(0, dtype=torch.long, device=device)
        self.place = torch.full((shape[0],), -1, dtype=torch.long, device=device)
        self.table = torch.empty(0, shape[1], dtype=compute, device=device)

    def add(self, columns: Int[Tensor, " F"], part: Float[Tensor, "F H"]) -> None:
        if self.columns is None:
            self.table.index_add_(0, columns, part)
            return
        new = columns[self.place[columns] < 0]
        if len(self.columns) + len(new) > MAX_SHARE * self.shape[0]:
            self.everything().index_add_(0, columns, part)
            return
        known = len(self.columns)
        self.place[new] = torch.arange(known, known + len(new), device=self.device)
        self.columns = torch.cat([self.columns, new])
        if len(self.columns) > len(self.table):
            grown = self.table.new_zeros(int(1.3 * len(self.columns)) + 64, self.shape[1])
            grown[:known] = self.table[:known]
            self.table = grown
        self.table.index_add_(0, self.place[columns], part)

    def everything(self) -> Float[Tensor, "V H"]:
        """The whole sum, to be added to in place."""
        if self.columns is not None:
            whole = torch.zeros(self.shape, dtype=self.compute, device=self.device)
            whole[self.columns] = self.table[: len(self.columns)]
            self.table, self.columns = whole, None
        return self.table

    def scaled(self, factor: Tensor, dtype: torch.dtype) -> Float[Tensor, "V H"]:
        """The sum times `factor`, rounded once."""
        if self.columns is None:
            return torch.mul(self.table, factor, out=torch.empty_like(self.table, dtype=dtype))
        result = torch.zeros(self.shape, dtype=dtype, device=self.device)
        result[self.columns] = (self.table[: len(self.columns)] * factor).to(dtype)
        return result
