"""Kernels of the head's gradient at flagged columns (`kl_columns.ColumnSums`), of which most rows are zero.

One launch each instead of a dozen of torch's, and every row of the table is read and written once.
"""

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

BLOCK, WARPS = 1024, 4  # of a row


def add(
    table: Float[Tensor, "R H"],
    place: Int[Tensor, " V"],
    used: Int[Tensor, ""],
    columns: Int[Tensor, " F"],
    part: Float[Tensor, "F H"],
) -> None:
    """table[place[column]] += part, in place. A column without a place (-1) gets the table's next row, `used`
    counts them; which one is left to chance, and seen nowhere. No column may occur twice."""
    if len(columns):
        _add[(len(columns),)](table, place, used, columns, part, table.shape[1], BLOCK=BLOCK, num_warps=WARPS)


def spread(
    table: Float[Tensor, "R H"], place: Int[Tensor, " V"] | None, factor: Float[Tensor, ""], dtype: torch.dtype
) -> Float[Tensor, "V H"]:
    """The table's rows times `factor` where their columns are, zero elsewhere. place None: every row where it is
    (torch's product into another dtype takes twice as long)."""
    out = torch.empty(len(table if place is None else place), table.shape[1], dtype=dtype, device=table.device)
    if len(out):
        _spread[(len(out),)](table, place, factor, out, table.shape[1], BLOCK=BLOCK, num_warps=WARPS)
    return out


@triton.jit
def _add(table, place, used, columns, part, width, BLOCK: tl.constexpr):
    number = tl.program_id(0).to(tl.int64)
    column = tl.load(columns + number)
    row = tl.load(place + column)
    if row < 0:
        row = tl.atomic_add(used, 1)
        tl.store(place + column, row)
    for start in range(0, width, BLOCK):
        at = start + tl.arange(0, BLOCK)
        inside = at < width
        total = tl.load(table + row * width + at, mask=inside) + tl.load(part + number * width + at, mask=inside)
        tl.store(table + row * width + at, total, mask=inside)


@triton.jit
def _spread(table, place, factor, out, width, BLOCK: tl.constexpr):
    column = tl.program_id(0).to(tl.int64)
    row = column
    if place is not None:
        row = tl.load(place + column)
    there = tl.where(row < 0, 0, width)
    for start in range(0, width, BLOCK):
        at = start + tl.arange(0, BLOCK)
        value = tl.load(table + row * width + at, mask=at < there, other=0.0) * tl.load(factor)
        tl.store(out + column * width + at, value.to(out.dtype.element_ty), mask=at < width)
