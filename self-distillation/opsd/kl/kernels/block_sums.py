"""Kernels of the exact KL: what is summed over a chunk's two fp32 logits, by row and block, then by row.

One read of both logits gives, for every row and block of columns, a few sums (`sum_block`). They are merged per
row in fp64 (`merge_blocks`): value, entropies and everything the gradient needs.

Precision. In every block x is taken from its maximum there, y from its value at the same column, and the
divergence is made of the difference h of the two: neither the size of the logits nor that of their normalisers
enters. With E_p[h] and u = E_p[exp(-h)] - 1, both sums of small numbers wherever p and q are alike,

    log p/q = h + log(1 + u)    KL(p || q) = E_p[h] + log(1 + u)    d KL / dx = p (h - E_p[h])

Merging moves every block's h to that of the block with the student's likeliest column. Rows that are too far
apart for exp(-h) take log(1 + u) from the normalisers, whose difference is then precise enough.
"""

import triton
import triton.language as tl

# What is left per row and block, with x_max = max x, y_from = y at that column (but at least max y - FAR),
# e = exp(x - x_max), f = exp(y - y_from), h = (x - x_max) - (y - y_from). One store writes all of it: pieces of a
# memory sector, written by different programs, would have to be put together before anybody can read it. What the
# gradient of reverse KL needs comes first, in one sector.
BLOCK_FIELDS = tl.constexpr(16)
X = tl.constexpr(0)  # x_max
E = tl.constexpr(1)  # sum e
Y = tl.constexpr(2)  # y_from
E_H = tl.constexpr(3)  # sum e h
E_DX = tl.constexpr(4)  # sum e (x - x_max)
F = tl.constexpr(5)  # sum f
F_DY = tl.constexpr(6)  # sum f (y - y_from)
E_EXCESS = tl.constexpr(7)  # sum e (exp(-h) - 1 + h)
F_H = tl.constexpr(8)  # sum f h
MAX_Y = tl.constexpr(9)
# The squares, for `kl_triton.FusedChunk.flag`:
E2 = tl.constexpr(10)  # sum e^2
E2_H = tl.constexpr(11)  # sum e^2 h
E2_H2 = tl.constexpr(12)  # sum e^2 h^2
MAX_H = tl.constexpr(13)  # max |h|
FAR = tl.constexpr(60.0)  # exp of it, times a row's columns, still fits fp32
# What `merge_blocks` leaves per row, in this order. MAX_X and SHIFT_Y are X and Y of the block where x has the
# row's maximum: h = (x - MAX_X) - (y - SHIFT_Y). REFERENCE_Y is the largest Y.
ROW_FIELDS = 15
(
    MAX_X, INVERSE_SUM_X, REFERENCE_Y, INVERSE_SUM_Y, SHIFT_Y, MEAN_H, LOG_U, REVERSE, FORWARD,
    ENTROPY_X, ENTROPY_Y, NORMALISER_X, NORMALISER_Y, AGREEMENT, GRADIENT_NORM2,
) = range(ROW_FIELDS)  # fmt: skip

# Numbers of rows, blocks and flagged columns vary from call to call: they are not specialised, or each
# kernel would be compiled anew for 1 and for multiples of 16. The vocabulary's size and the strides are: where
# they are multiples of 16, four logits are read at once.


@triton.jit
def load(logits, inside, inverse_temperature, TEMPERED: tl.constexpr):
    """Logits divided by the temperature; outside of the vocabulary so low that exp gives 0, but finite."""
    x = tl.load(logits, mask=inside, other=-1e30).to(tl.float32)
    if TEMPERED:
        x = x * inverse_temperature
    return x


@triton.jit
def exp(x):
    return tl.exp2(x * 1.4426950408889634)


@triton.jit
def excess(h):
    """exp(-h) - 1 + h for |h| < 0.25, where computing it as written would cancel; never negative."""
    series = h * (1.0 / 720.0) - 1.0 / 120.0
    series = series * h + 1.0 / 24.0
    series = series * h - 1.0 / 6.0
    series = series * h + 0.5
    return h * h * series


@triton.jit
def _larger(x0, y0, most0, x1, y1, most1):
    first = x0 >= x1
    return tl.where(first, x0, x1), tl.where(first, y0, y1), tl.maximum(most0, most1)


@triton.jit
def _add(a0, a1, a2, a3, a4, a5, a6, b0, b1, b2, b3, b4, b5, b6):
    return a0 + b0, a1 + b1, a2 + b2, a3 + b3, a4 + b4, a5 + b5, a6 + b6


@triton.jit
def _add_with_squares(
    a0, a1, a2, a3, a4, a5, a6, a7, a8, a9, most0, b0, b1, b2, b3, b4, b5, b6, b7, b8, b9, most1
):  # fmt: skip
    return (
        a0 + b0, a1 + b1, a2 + b2, a3 + b3, a4 + b4, a5 + b5, a6 + b6, a7 + b7, a8 + b8, a9 + b9,
        tl.maximum(most0, most1),
    )  # fmt: skip


@triton.jit
def at_block(sums, row, block, blocks):
    """The first field of a block of a row."""
    return sums + (row * blocks + block) * BLOCK_FIELDS


@triton.jit
def sum_block(x, y, sums, row, block, blocks, SQUARES: tl.constexpr):
    """Leaves the sums of a block of a row; without SQUARES zeros instead of these."""
    x_max, y_there, y_max = tl.reduce((x, y, y), axis=0, combine_fn=_larger)
    y_from = tl.maximum(y_there, y_max - FAR)
    dx = x - x_max
    dy = y - y_from
    e = exp(dx)  # 0 outside
    f = exp(dy)
    h = dx - dy
    e_h = e * h
    # e exp(-h) = f
    e_excess = tl.where(tl.abs(h) < 0.25, e * excess(h), f - e + e_h)
    terms = (e, e_h, e * dx, f, f * dy, e_excess, f * h)
    if SQUARES:
        e2 = e * e
        e2_h = e2 * h
        terms = terms + (e2, e2_h, e2_h * h, tl.abs(h))
        total = tl.reduce(terms, axis=0, combine_fn=_add_with_squares)
    else:
        total = tl.reduce(terms, axis=0, combine_fn=_add)
    field = tl.arange(0, BLOCK_FIELDS)
    value = tl.where(field == X, x_max, 0.0)
    value = tl.where(field == E, total[0], value)
    value = tl.where(field == Y, y_from, value)
    value = tl.where(field == E_H, total[1], value)
    value = tl.where(field == E_DX, total[2], value)
    value = tl.where(field == F, total[3], value)
    value = tl.where(field == F_DY, total[4], value)
    value = tl.where(field == E_EXCESS, total[5], value)
    value = tl.where(field == F_H, total[6], value)
    value = tl.where(field == MAX_Y, y_max, value)
    if SQUARES:
        value = tl.where(field == E2, total[7], value)
        value = tl.where(field == E2_H, total[8], value)
        value = tl.where(field == E2_H2, total[9], value)
        value = tl.where(field == MAX_H, total[10], value)
    tl.store(at_block(sums, row, block, blocks) + field, value)


@triton.jit(do_not_specialize=["blocks"])
def block_sums(
    student, teacher, student_stride, teacher_stride, sums, blocks, vocab,
    inverse_temperature, TEMPERED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    block = tl.program_id(0)
    row = tl.program_id(1).to(tl.int64)
    column = block * BLOCK + tl.arange(0, BLOCK)
    inside = column < vocab
    x = load(student + row * student_stride + column, inside, inverse_temperature, TEMPERED)
    y = load(teacher + row * teacher_stride + column, inside, inverse_temperature, TEMPERED)
    sum_block(x, y, sums, row, block, blocks, True)


@triton.jit
def _field(sums, field, row, blocks, block, inside, other):
    return tl.load(at_block(sums, row, block, blocks) + field, mask=inside, other=other).to(tl.float64)


@triton.jit(do_not_specialize=["count", "blocks"])
def merge_blocks(sums, rows, count, blocks, BLOCKS: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    block = tl.arange(0, BLOCKS)
    inside = block < blocks
    x_maxes = _field(sums, X, row, blocks, block, inside, -float("inf"))
    e = _field(sums, E, row, blocks, block, inside, 0.0)
    e_dx = _field(sums, E_DX, row, blocks, block, inside, 0.0)
    y_froms = _field(sums, Y, row, blocks, block, inside, -float("inf"))
    f = _field(sums, F, row, blocks, block, inside, 0.0)
    f_dy = _field(sums, F_DY, row, blocks, block, inside, 0.0)
    e_h = _field(sums, E_H, row, blocks, block, inside, 0.0)
    e_excess = _field(sums, E_EXCESS, row, blocks, block, inside, 0.0)
    f_h = _field(sums, F_H, row, blocks, block, inside, 0.0)
    e2 = _field(sums, E2, row, blocks, block, inside, 0.0)
    e2_h = _field(sums, E2_H, row, blocks, block, inside, 0.0)
    e2_h2 = _field(sums, E2_H2, row, blocks, block, inside, 0.0)
    y_maxes = _field(sums, MAX_Y, row, blocks, block, inside, -float("inf"))

    x_max, x_at = tl.max(x_maxes, axis=0, return_indices=True)
    y_shift = tl.sum(tl.where(block == x_at, y_froms, 0.0), axis=0)
    y_from = tl.max(y_froms, axis=0)
    x_gap = tl.where(inside, x_max - x_maxes, 0.0)
    y_gap = tl.where(inside, y_from - y_froms, 0.0)
    moved = tl.where(inside, y_shift - y_froms, 0.0) - x_gap  # h of the row = h of the block + moved
    x_scale = tl.where(inside, tl.exp(-x_gap), 0.0)
    y_scale = tl.where(inside, tl.exp(-y_gap), 0.0)
    e_sum = tl.sum(x_scale * e, axis=0)
    f_sum = tl.sum(y_scale * f, axis=0)
    mean_h = tl.sum(x_scale * (e_h + moved * e), axis=0) / e_sum
    # e + e_excess - e_h = sum e exp(-h) of the block.
    grown = tl.exp(-x_gap - moved) * (e + e_excess - e_h) - x_scale * e
    u = tl.sum(tl.where(inside, grown, 0.0), axis=0) / e_sum
    mean_f_h = tl.sum(y_scale * (f_h + moved * f), axis=0) / f_sum
    x_log = tl.log(e_sum)
    y_log = tl.log(f_sum)

    far = (y_from - y_shift) + y_log - x_log
    near = tl.log(tl.maximum(1.0 + u, 1e-30))
    # Near wins where both agree to the rounding of the normalisers; an overflow fails the comparison.
    log_u = tl.where(tl.abs(near - far) < 1e-5, near, far)
    centre = mean_h - moved
    norm2 = tl.sum(x_scale * x_scale * (e2_h2 - 2.0 * centre * e2_h + centre * centre * e2), axis=0)
    norm2 = norm2 / (e_sum * e_sum)
    x_entropy = x_log - tl.sum(x_scale * (e_dx - x_gap * e), axis=0) / e_sum
    y_entropy = y_log - tl.sum(y_scale * (f_dy - y_gap * f), axis=0) / f_sum
    agreement = tl.where(y_shift == tl.max(y_maxes, axis=0), 1.0, 0.0)

    tl.store(rows + 0 * count + row, x_max.to(tl.float32))
    tl.store(rows + 1 * count + row, (1.0 / e_sum).to(tl.float32))
    tl.store(rows + 2 * count + row, y_from.to(tl.float32))
    tl.store(rows + 3 * count + row, (1.0 / f_sum).to(tl.float32))
    tl.store(rows + 4 * count + row, y_shift.to(tl.float32))
    tl.store(rows + 5 * count + row, mean_h.to(tl.float32))
    tl.store(rows + 6 * count + row, log_u.to(tl.float32))
    tl.store(rows + 7 * count + row, (mean_h + log_u).to(tl.float32))
    tl.store(rows + 8 * count + row, (-mean_f_h - log_u).to(tl.float32))
    tl.store(rows + 9 * count + row, x_entropy.to(tl.float32))
    tl.store(rows + 10 * count + row, y_entropy.to(tl.float32))
    tl.store(rows + 11 * count + row, (x_max + x_log).to(tl.float32))
    tl.store(rows + 12 * count + row, (y_from + y_log).to(tl.float32))
    tl.store(rows + 13 * count + row, agreement.to(tl.float32))
    tl.store(rows + 14 * count + row, tl.maximum(norm2, 0.0).to(tl.float32))
