"""Fused kernels of the exact KL: two chunks of fp32 logits -> value, extras, gradient or its flagged columns.

One read of both logits gives, for every row and block of columns, a few sums (`_block_sums`). They are merged
per row in fp64 (`_merge_blocks`): value, entropies and everything the gradient needs. Then either

- `dense`: a second read writes the gradient of all columns; or
- `flag` and `at`: a second read of only those blocks in which an entry of the gradient can exceed the
  threshold flags columns, and the gradient is formed at the flagged columns alone.

Precision. Let d = x - y be the difference of a column's two logits and c its value at the student's likeliest
column. Everything is made of h = d - c, so neither the size of the logits nor that of their normalisers
enters: with E_p[h] and u = E_p[exp(-h)] - 1, both sums of small numbers,

    log normaliser(x) - log normaliser(y) = c - log(1 + u)    KL(p || q) = E_p[h] + log(1 + u)
    log p/q = h + log(1 + u)    d KL / dx = p (h - E_p[h])

Each block has a c of its own, and merging shifts it. Rows whose log-ratios are too far apart for exp(-h) take
the difference of the normalisers, which is then precise enough.
"""

# ruff: noqa: F722 - the strings in annotations are jaxtyping shapes

from collections.abc import Callable
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

from opsd.divergences import KLOptions

# Columns per program and its warps, by kernel; `benchmarks/kl.py mode=tune` measures others.
BLOCK, WARPS = 4096, 8  # sums and flags
DENSE_BLOCK, DENSE_WARPS = 4096, 8
AT_BLOCK, AT_WARPS = 512, 4

KINDS = {"reverse": 0, "forward": 1, "mixed": 2}

# What `_block_sums` leaves per row and block, in this order; exp(x - max) is meant by e, exp(y - max) by f.
BLOCK_FIELDS = 16  # max x, E = sum e, sum e (max - x), max y, F = sum f, sum f (max - y), c, sum e h,
#                    sum e (exp(-h) - 1 + h), sum f h, sum e^2, sum e^2 h, sum e^2 h^2, max |h|, argmax x, argmax y
# What `_merge_blocks` leaves per row, in this order.
ROW_FIELDS = 16
(
    MAX_X, INVERSE_SUM_X, MAX_Y, INVERSE_SUM_Y, SHIFT, MEAN_H, LOG_U, REVERSE, FORWARD,
    ENTROPY_X, ENTROPY_Y, NORMALISER_X, NORMALISER_Y, LIKELIEST_X, LIKELIEST_Y, GRADIENT_NORM2,
) = range(ROW_FIELDS)  # fmt: skip


def serves(options: KLOptions, vocab_size: int) -> bool:
    """Whether these kernels know the divergence; the others take `opsd.divergences`."""
    return options.kind in KINDS and not 0 < options.topk < vocab_size


@dataclass(frozen=True)
class FusedChunk:
    """The comparison of one chunk of rows; N rows, V columns. Made by `compare`."""

    student: Float[Tensor, "N V"]  # logits
    teacher: Float[Tensor, "N V"]
    weights: Float[Tensor, " N"]
    options: KLOptions
    blocks: Float[Tensor, "fields N blocks"]
    rows: Float[Tensor, "fields N"]

    @property
    def token_kl(self) -> Float[Tensor, " N"]:
        if self.options.kind == "reverse":
            return self.rows[REVERSE]
        if self.options.kind == "forward":
            return self.rows[FORWARD]
        return torch.lerp(self.rows[REVERSE], self.rows[FORWARD], self.options.mixed_weight)

    def flag(self, eps: float, max_dropped: float) -> Int[Tensor, " V"]:
        """1 for each column in which |gradient| exceeds eps times the root mean square of the rows' gradient
        norms; all 1 when what the other columns hold is more than `max_dropped` of the gradient's norm.

        Only for the reverse KL. `max_dropped` is compared with the entries below the threshold, of which the
        flagged columns keep some: the gradient's true relative error is smaller.
        """
        count, vocab = self.student.shape
        blocks = self.blocks.shape[2]
        scale = self.weights / self.options.temperature
        norm2 = (self.rows[GRADIENT_NORM2] * scale.square()).sum()
        flags = torch.zeros(vocab, dtype=torch.int32, device=self.student.device)
        dropped = torch.empty(count, blocks, dtype=torch.float32, device=self.student.device)
        _flag_columns[(blocks, count)](
            self.student, self.teacher, self.student.stride(0), self.teacher.stride(0), scale, norm2,
            eps / count**0.5, self.rows, self.blocks, flags, dropped, count, blocks, vocab,
            1.0 / self.options.temperature, BLOCK=BLOCK, num_warps=WARPS,
        )  # fmt: skip
        return flags.logical_or_(dropped.sum() > max_dropped**2 * norm2)

    def at(self, columns: Int[Tensor, " F"], dtype: torch.dtype) -> Float[Tensor, "N F"]:
        """The weighted gradient of the student's logits at some columns."""
        gradient = torch.empty(len(self.student), len(columns), dtype=dtype, device=self.student.device)
        self._gradient(_gradient_at, (AT_BLOCK, AT_WARPS), columns, gradient)
        return gradient

    def dense(self, out: Float[Tensor, "N V"] | None = None) -> Float[Tensor, "N V"]:
        """The weighted gradient at all columns, in `out` or in place of the student's logits, which end here."""
        gradient = self.student if out is None else out
        self._gradient(_gradient_everywhere, (DENSE_BLOCK, DENSE_WARPS), gradient, gradient)
        return gradient

    def _gradient(self, kernel, launch: tuple[int, int], columns: Tensor, gradient: Tensor) -> None:
        count, width = gradient.shape
        block, warps = launch
        if not width:
            return
        kernel[(triton.cdiv(width, block), count)](
            self.student, self.teacher, self.student.stride(0), self.teacher.stride(0), columns, gradient,
            gradient.stride(0), self.weights / self.options.temperature, self.rows, count, width,
            1.0 / self.options.temperature, self.options.mixed_weight,
            KIND=KINDS[self.options.kind], BLOCK=block, num_warps=warps,
        )  # fmt: skip


def compare(
    student: Float[Tensor, "N V"],
    teacher: Float[Tensor, "N V"],
    weights: Float[Tensor, " N"],
    options: KLOptions,
    *,
    first_column: int = 0,
    gather: Callable[[Tensor], Tensor] | None = None,
) -> FusedChunk:
    """Sums over both logits (computed in fp32; the last dimension contiguous), which are kept for the gradient.

    first_column, gather: for a vocabulary-sharded head, the token id of column 0 and what turns a process's
    block sums into those of all processes, in the vocabulary's order (`opsd.kl_sharded`).
    """
    count, vocab = student.shape
    blocks = triton.cdiv(vocab, BLOCK)
    sums = torch.empty(BLOCK_FIELDS, count, blocks, dtype=torch.float32, device=student.device)
    _block_sums[(blocks, count)](
        student, teacher, student.stride(0), teacher.stride(0), sums, count, blocks, vocab, first_column,
        1.0 / options.temperature, BLOCK=BLOCK, num_warps=WARPS,
    )  # fmt: skip
    everywhere = sums if gather is None else gather(sums)
    rows = torch.empty(ROW_FIELDS, count, dtype=torch.float32, device=student.device)
    _merge_blocks[(count,)](
        everywhere, rows, count, everywhere.shape[2],
        BLOCKS=triton.next_power_of_2(everywhere.shape[2]), num_warps=1,
    )  # fmt: skip
    return FusedChunk(student, teacher, weights, options, sums, rows)


def extras(chunk: FusedChunk) -> dict[str, Tensor]:
    """Both entropies and the agreement. `chunk` must have been compared at temperature 1."""
    return {
        "student_entropy": chunk.rows[ENTROPY_X],
        "teacher_entropy": chunk.rows[ENTROPY_Y],
        "agreement": chunk.rows[LIKELIEST_X] == chunk.rows[LIKELIEST_Y],
    }


@triton.jit
def _load(logits, inside, inverse_temperature):
    """Logits divided by the temperature; -inf outside of the vocabulary."""
    return tl.load(logits, mask=inside, other=-float("inf")).to(tl.float32) * inverse_temperature


@triton.jit
def _excess(h):
    """exp(-h) - 1 + h for |h| < 0.5, where computing it as written would cancel; never negative."""
    series = 1.0 / 40320.0
    series = series * -h + 1.0 / 5040.0
    series = series * -h + 1.0 / 720.0
    series = series * -h + 1.0 / 120.0
    series = series * -h + 1.0 / 24.0
    series = series * -h + 1.0 / 6.0
    series = series * -h + 0.5
    return h * h * series


@triton.jit
def _larger(x0, i0, y0, j0, x1, i1, y1, j1):
    x_first, y_first = x0 >= x1, y0 >= y1
    return (
        tl.where(x_first, x0, x1),
        tl.where(x_first, i0, i1),
        tl.where(y_first, y0, y1),
        tl.where(y_first, j0, j1),
    )


@triton.jit
def _add(a0, a1, a2, a3, a4, a5, a6, a7, a8, a9, most0, b0, b1, b2, b3, b4, b5, b6, b7, b8, b9, most1):
    return (
        a0 + b0, a1 + b1, a2 + b2, a3 + b3, a4 + b4, a5 + b5, a6 + b6, a7 + b7, a8 + b8, a9 + b9,
        tl.maximum(most0, most1),
    )  # fmt: skip


@triton.jit
def _block_sums(
    student, teacher, student_stride, teacher_stride, sums, count, blocks, vocab, first_column,
    inverse_temperature, BLOCK: tl.constexpr,
):  # fmt: skip
    block = tl.program_id(0)
    row = tl.program_id(1).to(tl.int64)
    column = block * BLOCK + tl.arange(0, BLOCK)
    inside = column < vocab
    x = _load(student + row * student_stride + column, inside, inverse_temperature)
    y = _load(teacher + row * teacher_stride + column, inside, inverse_temperature)
    x_max, x_at, y_max, y_at = tl.reduce((x, column, y, column), axis=0, combine_fn=_larger)
    # Not a third reduction: the value is in the cache.
    shift = x_max - tl.load(teacher + row * teacher_stride + x_at).to(tl.float32) * inverse_temperature
    e = tl.exp(x - x_max)  # 0 outside
    f = tl.exp(y - y_max)
    h = tl.where(inside, x - y - shift, 0.0)
    x_gap = tl.where(inside, x_max - x, 0.0)
    y_gap = tl.where(inside, y_max - y, 0.0)
    # e exp(-h) = f exp(max y - max x + c); where that factor leaves fp32, so does the KL's need for it.
    far = f * tl.exp(tl.minimum(y_max - x_max + shift, 80.0)) - e + e * h
    excess = tl.where(tl.abs(h) < 0.5, e * _excess(h), far)
    e2 = e * e
    e2_h = e2 * h
    total = tl.reduce(
        (e, e * x_gap, f, f * y_gap, e * h, excess, f * h, e2, e2_h, e2_h * h, tl.abs(h)), axis=0, combine_fn=_add
    )
    out = sums + row * blocks + block
    step = count.to(tl.int64) * blocks
    tl.store(out, x_max)
    tl.store(out + step, total[0])
    tl.store(out + 2 * step, total[1])
    tl.store(out + 3 * step, y_max)
    tl.store(out + 4 * step, total[2])
    tl.store(out + 5 * step, total[3])
    tl.store(out + 6 * step, shift)
    tl.store(out + 7 * step, total[4])
    tl.store(out + 8 * step, total[5])
    tl.store(out + 9 * step, total[6])
    tl.store(out + 10 * step, total[7])
    tl.store(out + 11 * step, total[8])
    tl.store(out + 12 * step, total[9])
    tl.store(out + 13 * step, total[10])
    # Exact in fp32 for vocabularies below 2^24.
    tl.store(out + 14 * step, (first_column + x_at).to(tl.float32))
    tl.store(out + 15 * step, (first_column + y_at).to(tl.float32))


@triton.jit
def _field(sums, index, row, count, blocks, block, inside, other):
    step = count.to(tl.int64) * blocks
    return tl.load(sums + index * step + row * blocks + block, mask=inside, other=other).to(tl.float64)


@triton.jit
def _merge_blocks(sums, rows, count, blocks, BLOCKS: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    block = tl.arange(0, BLOCKS)
    inside = block < blocks
    x_maxes = _field(sums, 0, row, count, blocks, block, inside, -float("inf"))
    e = _field(sums, 1, row, count, blocks, block, inside, 0.0)
    e_gap = _field(sums, 2, row, count, blocks, block, inside, 0.0)
    y_maxes = _field(sums, 3, row, count, blocks, block, inside, -float("inf"))
    f = _field(sums, 4, row, count, blocks, block, inside, 0.0)
    f_gap = _field(sums, 5, row, count, blocks, block, inside, 0.0)
    shifts = _field(sums, 6, row, count, blocks, block, inside, 0.0)
    e_h = _field(sums, 7, row, count, blocks, block, inside, 0.0)
    e_excess = _field(sums, 8, row, count, blocks, block, inside, 0.0)
    f_h = _field(sums, 9, row, count, blocks, block, inside, 0.0)
    e2 = _field(sums, 10, row, count, blocks, block, inside, 0.0)
    e2_h = _field(sums, 11, row, count, blocks, block, inside, 0.0)
    e2_h2 = _field(sums, 12, row, count, blocks, block, inside, 0.0)
    x_ids = _field(sums, 14, row, count, blocks, block, inside, 0.0)
    y_ids = _field(sums, 15, row, count, blocks, block, inside, 0.0)

    x_max, x_at = tl.max(x_maxes, axis=0, return_indices=True)
    y_max, y_at = tl.max(y_maxes, axis=0, return_indices=True)
    shift = tl.sum(tl.where(block == x_at, shifts, 0.0), axis=0)
    moved = tl.where(inside, shifts - shift, 0.0)  # h of the row = h of the block + moved
    x_gap = tl.where(inside, x_max - x_maxes, 0.0)
    y_gap = tl.where(inside, y_max - y_maxes, 0.0)
    x_scale = tl.where(inside, tl.exp(-x_gap), 0.0)
    y_scale = tl.where(inside, tl.exp(-y_gap), 0.0)
    e_sum = tl.sum(x_scale * e, axis=0)
    f_sum = tl.sum(y_scale * f, axis=0)
    mean_h = tl.sum(x_scale * (e_h + moved * e), axis=0) / e_sum
    # e + e_excess - e_h = sum e exp(-h) of the block.
    grown = tl.exp(-x_gap - moved) * (e + e_excess - e_h) - x_scale * e
    u = tl.sum(tl.where(inside, grown, 0.0), axis=0) / e_sum
    mean_f_h = tl.sum(y_scale * (f_h + moved * f), axis=0) / f_sum
    x_log = x_max + tl.log(e_sum)
    y_log = y_max + tl.log(f_sum)

    far = shift - (x_log - y_log)
    near = tl.log(tl.maximum(1.0 + u, 1e-30))
    # Near wins where both agree to the rounding of the normalisers; an overflow fails the comparison.
    log_u = tl.where(tl.abs(near - far) < 1e-5, near, far)
    square_sum = e_sum * e_sum
    centre = mean_h - moved
    norm2 = tl.sum(x_scale * x_scale * (e2_h2 - 2.0 * centre * e2_h + centre * centre * e2), axis=0) / square_sum
    x_entropy = tl.log(e_sum) + tl.sum(x_scale * (e_gap + x_gap * e), axis=0) / e_sum
    y_entropy = tl.log(f_sum) + tl.sum(y_scale * (f_gap + y_gap * f), axis=0) / f_sum

    tl.store(rows + 0 * count + row, x_max.to(tl.float32))
    tl.store(rows + 1 * count + row, (1.0 / e_sum).to(tl.float32))
    tl.store(rows + 2 * count + row, y_max.to(tl.float32))
    tl.store(rows + 3 * count + row, (1.0 / f_sum).to(tl.float32))
    tl.store(rows + 4 * count + row, shift.to(tl.float32))
    tl.store(rows + 5 * count + row, mean_h.to(tl.float32))
    tl.store(rows + 6 * count + row, log_u.to(tl.float32))
    tl.store(rows + 7 * count + row, (mean_h + log_u).to(tl.float32))
    tl.store(rows + 8 * count + row, (-mean_f_h - log_u).to(tl.float32))
    tl.store(rows + 9 * count + row, x_entropy.to(tl.float32))
    tl.store(rows + 10 * count + row, y_entropy.to(tl.float32))
    tl.store(rows + 11 * count + row, x_log.to(tl.float32))
    tl.store(rows + 12 * count + row, y_log.to(tl.float32))
    tl.store(rows + 13 * count + row, tl.sum(tl.where(block == x_at, x_ids, 0.0), axis=0).to(tl.float32))
    tl.store(rows + 14 * count + row, tl.sum(tl.where(block == y_at, y_ids, 0.0), axis=0).to(tl.float32))
    tl.store(rows + 15 * count + row, tl.maximum(norm2, 0.0).to(tl.float32))


@triton.jit
def _gradient(x, y, rows, count, row, mixed_weight, KIND: tl.constexpr):
    """d divergence / d(x / temperature), from logits divided by it; columns outside hold x = y = -inf."""
    p = tl.exp(x - tl.load(rows + row)) * tl.load(rows + count + row)
    h = tl.where(p > 0.0, x - y - tl.load(rows + 4 * count + row), 0.0)
    reverse = p * (h - tl.load(rows + 5 * count + row))
    if KIND == 0:
        return reverse
    q = tl.exp(y - tl.load(rows + 2 * count + row)) * tl.load(rows + 3 * count + row)
    ratio = h + tl.load(rows + 6 * count + row)  # log p/q
    forward = tl.where(tl.abs(ratio) < 0.5, p * (ratio - _excess(ratio)), p - q)
    forward = tl.where(p > 0.0, forward, -q)
    if KIND == 1:
        return forward
    return mixed_weight * forward + (1.0 - mixed_weight) * reverse


@triton.jit
def _gradient_everywhere(
    student, teacher, student_stride, teacher_stride, columns, gradient, gradient_stride, scale, rows, count,
    width, inverse_temperature, mixed_weight, KIND: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    # From the last row back: the end of what `_block_sums` read is still in the L2 cache.
    row = count - 1 - tl.program_id(1).to(tl.int64)
    column = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = column < width
    x = _load(student + row * student_stride + column, inside, inverse_temperature)
    y = _load(teacher + row * teacher_stride + column, inside, inverse_temperature)
    value = _gradient(x, y, rows, count, row, mixed_weight, KIND) * tl.load(scale + row)
    tl.store(gradient + row * gradient_stride + column, value.to(gradient.dtype.element_ty), mask=inside)


@triton.jit
def _gradient_at(
    student, teacher, student_stride, teacher_stride, columns, gradient, gradient_stride, scale, rows, count,
    width, inverse_temperature, mixed_weight, KIND: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(1).to(tl.int64)
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = place < width
    column = tl.load(columns + place, mask=inside, other=0)
    x = _load(student + row * student_stride + column, inside, inverse_temperature)
    y = _load(teacher + row * teacher_stride + column, inside, inverse_temperature)
    value = _gradient(x, y, rows, count, row, mixed_weight, KIND) * tl.load(scale + row)
    tl.store(gradient + row * gradient_stride + place, value.to(gradient.dtype.element_ty), mask=inside)


@triton.jit
def _flag_columns(
    student, teacher, student_stride, teacher_stride, scale, norm2, eps, rows, sums, flags, dropped,
    count, blocks, vocab, inverse_temperature, BLOCK: tl.constexpr,
):  # fmt: skip
    block = tl.program_id(0)
    row = tl.program_id(1).to(tl.int64)
    threshold = eps * tl.sqrt(tl.load(norm2).to(tl.float32))
    row_scale = tl.load(scale + row)
    step = count.to(tl.int64) * blocks
    here = sums + row * blocks + block
    centre = tl.load(rows + 5 * count + row) - (tl.load(here + 6 * step) - tl.load(rows + 4 * count + row))
    likeliest = tl.exp(tl.load(here) - tl.load(rows + row)) * tl.load(rows + count + row)  # p, in this block
    most = likeliest * (tl.load(here + 13 * step) + tl.abs(centre)) * tl.abs(row_scale)
    if most <= threshold:
        e2_h2 = tl.load(here + 12 * step)
        e2_h = tl.load(here + 11 * step)
        e2 = tl.load(here + 10 * step)
        square = e2_h2 - 2.0 * centre * e2_h + centre * centre * e2
        lost = tl.maximum(square, 0.0) * likeliest * likeliest
        tl.store(dropped + row * blocks + block, lost * row_scale * row_scale)
    else:
        column = block * BLOCK + tl.arange(0, BLOCK)
        inside = column < vocab
        x = _load(student + row * student_stride + column, inside, inverse_temperature)
        y = _load(teacher + row * teacher_stride + column, inside, inverse_temperature)
        value = _gradient(x, y, rows, count, row, 0.0, 0) * row_scale
        over = ~(tl.abs(value) <= threshold)  # so that what is not finite is kept
        tl.store(flags + column, tl.full((BLOCK,), 1, tl.int32), mask=over & inside)
        lost = tl.sum(tl.where(over, 0.0, value * value), axis=0)
        tl.store(dropped + row * blocks + block, lost)
