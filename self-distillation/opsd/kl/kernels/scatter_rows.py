"""Kernels of `sparse_rows.SparseRowAccumulator`: the lm_head's gradient, most of whose rows are zero.

One launch each instead of a dozen of torch's, and every row of the table is read and written once.
"""

# pyright: basic, reportCallIssue=false
# (Launches have parameters that Triton's types omit.)

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

BLOCK, WARPS = 1024, 4  # of a row


def add(
    table: Float[Tensor, "R H"],
    slots: Int[Tensor, " V"],
    used: Int[Tensor, ""],
    entries: Int[Tensor, " F"],
    part: Float[Tensor, "F H"],
) -> None:
    """table[slots[entry]] += part, in place. An entry without a slot (-1) gets the table's next free row, which
    `used` counts; the order is left to chance and never visible in results. Entries must be distinct."""
    if len(entries):
        _add[(len(entries),)](table, slots, used, entries, part, table.shape[1], BLOCK=BLOCK, num_warps=WARPS)


def scatter_rows(
    table: Float[Tensor, "R H"], slots: Int[Tensor, " V"] | None, factor: Float[Tensor, ""], dtype: torch.dtype
) -> Float[Tensor, "V H"]:
    """The table's rows times `factor` at their vocab entries, zero elsewhere. slots None: every row stays where it
    is (torch's product into another dtype takes twice as long)."""
    out = torch.empty(len(table if slots is None else slots), table.shape[1], dtype=dtype, device=table.device)
    if len(out):
        _scatter_rows[(len(out),)](table, slots, factor, out, table.shape[1], BLOCK=BLOCK, num_warps=WARPS)
    return out


@triton.jit
def _add(table, slots, used, entries, part, width, BLOCK: tl.constexpr):
    number = tl.program_id(0).to(tl.int64)
    entry = tl.load(entries + number)
    row = tl.load(slots + entry)
    if row < 0:
        row = tl.atomic_add(used, 1)
        tl.store(slots + entry, row)
    for start in range(0, width, BLOCK):
        position = start + tl.arange(0, BLOCK)
        inside = position < width
        old = tl.load(table + row * width + position, mask=inside)
        total = old + tl.load(part + number * width + position, mask=inside)
        tl.store(table + row * width + position, total, mask=inside)


@triton.jit
def _scatter_rows(table, slots, factor, out, width, BLOCK: tl.constexpr):
    entry = tl.program_id(0).to(tl.int64)
    row = entry
    if slots is not None:
        row = tl.load(slots + entry)
    end = tl.where(row < 0, 0, width)
    for start in range(0, width, BLOCK):
        position = start + tl.arange(0, BLOCK)
        value = tl.load(table + row * width + position, mask=position < end, other=0.0) * tl.load(factor)
        tl.store(out + entry * width + position, value.to(out.dtype.element_ty), mask=position < width)
