"""Kernels of the exact KL: sums over both models' fp32 logits, per token and block of vocab entries, then merged.

One read of both logits yields a few sums for every token and block (`sum_block`). They are merged per token in
fp64 (`merge_blocks`): value, entropies and everything the gradient needs.

Precision. In every block x is taken relative to its maximum there and y relative to its value at the same entry,
and the divergence consists of the difference h of the two: neither the size of the logits nor that of their
normalizers enters. With E_p[h] and u = E_p[exp(-h)] - 1, both sums of small numbers wherever p and q are alike,

    log p/q = h + log(1 + u)    KL(p || q) = E_p[h] + log(1 + u)    d KL / dx = p (h - E_p[h])

Merging shifts every block's h to that of the block with the student's argmax. Tokens whose distributions are too
far apart for exp(-h) take log(1 + u) from the normalizers, whose difference is then accurate enough.
"""

# pyright: basic, reportArgumentType=false, reportOperatorIssue=false, reportAttributeAccessIssue=false
# (Kernel bodies are Triton's language, not Python's: scalars become constexpr, and tensors are typed too broadly.)

import triton
import triton.language as tl

# The fields of a token's block, where x_max = max x, y_from = y at that entry (but at least max y - FAR),
# e = exp(x - x_max), f = exp(y - y_from), h = (x - x_max) - (y - y_from). One store writes all fields: a
# memory sector written in pieces by different programs must be combined before it can be read. The fields that the
# gradient of reverse KL needs come first, in one sector.
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
# The squares, for `fused.FusedChunk.flag`:
E2 = tl.constexpr(10)  # sum e^2
E2_H = tl.constexpr(11)  # sum e^2 h
E2_H2 = tl.constexpr(12)  # sum e^2 h^2
MAX_H = tl.constexpr(13)  # max |h|
FAR = tl.constexpr(60.0)  # its exp, times the size of a vocabulary, is finite in fp32

# The fields of a token, which `merge_blocks` writes: (TOKEN_FIELDS, N).
TOKEN_FIELDS = tl.constexpr(15)
MAX_X = tl.constexpr(0)  # X of the block with the token's largest x; h = (x - MAX_X) - (y - SHIFT_Y)
INVERSE_SUM_X = tl.constexpr(1)  # 1 / sum exp(x - MAX_X)
REFERENCE_Y = tl.constexpr(2)  # the largest Y
INVERSE_SUM_Y = tl.constexpr(3)  # 1 / sum exp(y - REFERENCE_Y)
SHIFT_Y = tl.constexpr(4)  # Y of the block with the token's largest x
MEAN_H = tl.constexpr(5)  # E_p[h]
LOG_U = tl.constexpr(6)  # log(1 + u)
REVERSE = tl.constexpr(7)  # KL(p || q)
FORWARD = tl.constexpr(8)  # KL(q || p)
ENTROPY_X = tl.constexpr(9)
ENTROPY_Y = tl.constexpr(10)
NORMALIZER_X = tl.constexpr(11)  # log sum exp x
NORMALIZER_Y = tl.constexpr(12)
AGREEMENT = tl.constexpr(13)  # 1 if x and y have the same argmax
GRADIENT_NORM2 = tl.constexpr(14)  # sum (d KL(p || q) / dx)^2

# The numbers of tokens, blocks and flagged entries vary from call to call and are not specialized, or each kernel
# would be recompiled for 1 and for multiples of 16. The vocabulary's size and the strides are: where they are
# multiples of 16, four logits are read at once.


@triton.jit
def load(logits, inside, inverse_temperature, TEMPERED: tl.constexpr):
    """Logits divided by the temperature; outside the vocabulary finite, but so low that exp gives 0."""
    x = tl.load(logits, mask=inside, other=-1e30).to(tl.float32)
    if TEMPERED:
        x = x * inverse_temperature
    return x


@triton.jit
def exp(x):
    return tl.exp2(x * 1.4426950408889634)


@triton.jit
def excess(h):
    """exp(-h) - 1 + h for |h| < 0.25, where the formula as written would cancel; never negative."""
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
def _add_with_squares(a0, a1, a2, a3, a4, a5, a6, a7, a8, a9, m0, b0, b1, b2, b3, b4, b5, b6, b7, b8, b9, m1):
    sums = a0 + b0, a1 + b1, a2 + b2, a3 + b3, a4 + b4, a5 + b5, a6 + b6
    return sums + (a7 + b7, a8 + b8, a9 + b9, tl.maximum(m0, m1))


@triton.jit
def block_field(sums, field, token, block, blocks):
    """Pointer to a field of a token's block; sums: (tokens, blocks, BLOCK_FIELDS)."""
    return sums + (token * blocks + block) * BLOCK_FIELDS + field


@triton.jit
def token_field(stats, field, token, tokens):
    """Pointer to a field of a token; stats: (TOKEN_FIELDS, tokens)."""
    return stats + field * tokens + token


@triton.jit
def load_token_field(stats, field, token, tokens):
    return tl.load(token_field(stats, field, token, tokens))


@triton.jit
def sum_block(x, y, sums, token, block, blocks, SQUARES: tl.constexpr):
    """Writes the sums of a token's block; zeros instead of the squares without SQUARES."""
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
    tl.store(block_field(sums, field, token, block, blocks), value)


@triton.jit(do_not_specialize=["blocks"])
def block_sums(
    student,
    teacher,
    student_stride,
    teacher_stride,
    sums,
    blocks,
    vocab,
    inverse_temperature,
    TEMPERED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    block = tl.program_id(0)
    token = tl.program_id(1).to(tl.int64)
    entry = block * BLOCK + tl.arange(0, BLOCK)
    inside = entry < vocab
    x = load(student + token * student_stride + entry, inside, inverse_temperature, TEMPERED)
    y = load(teacher + token * teacher_stride + entry, inside, inverse_temperature, TEMPERED)
    sum_block(x, y, sums, token, block, blocks, True)


@triton.jit
def _load_blocks(sums, field, token, blocks, block, inside, other):
    return tl.load(block_field(sums, field, token, block, blocks), mask=inside, other=other).to(tl.float64)


@triton.jit(do_not_specialize=["tokens", "blocks"])
def merge_blocks(sums, stats, tokens, blocks, BLOCKS: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    block = tl.arange(0, BLOCKS)
    inside = block < blocks
    x_maxes = _load_blocks(sums, X, token, blocks, block, inside, -float("inf"))
    e = _load_blocks(sums, E, token, blocks, block, inside, 0.0)
    e_dx = _load_blocks(sums, E_DX, token, blocks, block, inside, 0.0)
    y_froms = _load_blocks(sums, Y, token, blocks, block, inside, -float("inf"))
    f = _load_blocks(sums, F, token, blocks, block, inside, 0.0)
    f_dy = _load_blocks(sums, F_DY, token, blocks, block, inside, 0.0)
    e_h = _load_blocks(sums, E_H, token, blocks, block, inside, 0.0)
    e_excess = _load_blocks(sums, E_EXCESS, token, blocks, block, inside, 0.0)
    f_h = _load_blocks(sums, F_H, token, blocks, block, inside, 0.0)
    e2 = _load_blocks(sums, E2, token, blocks, block, inside, 0.0)
    e2_h = _load_blocks(sums, E2_H, token, blocks, block, inside, 0.0)
    e2_h2 = _load_blocks(sums, E2_H2, token, blocks, block, inside, 0.0)
    y_maxes = _load_blocks(sums, MAX_Y, token, blocks, block, inside, -float("inf"))

    x_max, x_at = tl.max(x_maxes, axis=0, return_indices=True)
    y_shift = tl.sum(tl.where(block == x_at, y_froms, 0.0), axis=0)
    y_from = tl.max(y_froms, axis=0)
    x_gap = tl.where(inside, x_max - x_maxes, 0.0)
    y_gap = tl.where(inside, y_from - y_froms, 0.0)
    moved = tl.where(inside, y_shift - y_froms, 0.0) - x_gap  # the token's h = the block's h + moved
    x_scale = tl.where(inside, tl.exp(-x_gap), 0.0)
    y_scale = tl.where(inside, tl.exp(-y_gap), 0.0)
    e_sum = tl.sum(x_scale * e, axis=0)
    f_sum = tl.sum(y_scale * f, axis=0)
    mean_h = tl.sum(x_scale * (e_h + moved * e), axis=0) / e_sum
    # e + e_excess - e_h = the block's sum of e exp(-h)
    grown = tl.exp(-x_gap - moved) * (e + e_excess - e_h) - x_scale * e
    u = tl.sum(tl.where(inside, grown, 0.0), axis=0) / e_sum
    mean_f_h = tl.sum(y_scale * (f_h + moved * f), axis=0) / f_sum
    x_log = tl.log(e_sum)
    y_log = tl.log(f_sum)

    far = (y_from - y_shift) + y_log - x_log
    near = tl.log(tl.maximum(1.0 + u, 1e-30))
    # Near is used where both agree to the rounding of the normalizers; an overflow fails the comparison.
    log_u = tl.where(tl.abs(near - far) < 1e-5, near, far)
    center = mean_h - moved
    norm2 = tl.sum(x_scale * x_scale * (e2_h2 - 2.0 * center * e2_h + center * center * e2), axis=0)
    norm2 = norm2 / (e_sum * e_sum)
    x_entropy = x_log - tl.sum(x_scale * (e_dx - x_gap * e), axis=0) / e_sum
    y_entropy = y_log - tl.sum(y_scale * (f_dy - y_gap * f), axis=0) / f_sum
    agreement = tl.where(y_shift == tl.max(y_maxes, axis=0), 1.0, 0.0)

    tl.store(token_field(stats, MAX_X, token, tokens), x_max.to(tl.float32))
    tl.store(token_field(stats, INVERSE_SUM_X, token, tokens), (1.0 / e_sum).to(tl.float32))
    tl.store(token_field(stats, REFERENCE_Y, token, tokens), y_from.to(tl.float32))
    tl.store(token_field(stats, INVERSE_SUM_Y, token, tokens), (1.0 / f_sum).to(tl.float32))
    tl.store(token_field(stats, SHIFT_Y, token, tokens), y_shift.to(tl.float32))
    tl.store(token_field(stats, MEAN_H, token, tokens), mean_h.to(tl.float32))
    tl.store(token_field(stats, LOG_U, token, tokens), log_u.to(tl.float32))
    tl.store(token_field(stats, REVERSE, token, tokens), (mean_h + log_u).to(tl.float32))
    tl.store(token_field(stats, FORWARD, token, tokens), (-mean_f_h - log_u).to(tl.float32))
    tl.store(token_field(stats, ENTROPY_X, token, tokens), x_entropy.to(tl.float32))
    tl.store(token_field(stats, ENTROPY_Y, token, tokens), y_entropy.to(tl.float32))
    tl.store(token_field(stats, NORMALIZER_X, token, tokens), (x_max + x_log).to(tl.float32))
    tl.store(token_field(stats, NORMALIZER_Y, token, tokens), (y_from + y_log).to(tl.float32))
    tl.store(token_field(stats, AGREEMENT, token, tokens), agreement.to(tl.float32))
    tl.store(token_field(stats, GRADIENT_NORM2, token, tokens), tl.maximum(norm2, 0.0).to(tl.float32))
