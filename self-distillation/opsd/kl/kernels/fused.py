"""Fused kernels of the exact KL: two chunks of fp32 logits -> value, extras, gradient or its flagged columns.

One read of both logits gives the sums of `opsd.kl.kernels.block_sums`: value, entropies and everything the
gradient needs. Then one of

- `flag` and `at`: a second read of only those blocks in which an entry of the gradient can exceed the
  threshold flags columns, and the gradient is formed at the flagged columns alone;
- `dense`: a second read writes the gradient of all columns;
- nothing more, where all columns were wanted from the start: `compare(..., out=)` writes them in the same launch
  (`opsd.kl.kernels.single_pass`).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

from opsd.kl.divergences import KLConfig
from opsd.kl.kernels import single_pass as kl_once_triton
from opsd.kl.kernels.block_sums import (
    AGREEMENT,
    BLOCK_FIELDS,
    E2,
    E2_H,
    E2_H2,
    ENTROPY_X,
    ENTROPY_Y,
    FORWARD,
    GRADIENT_NORM2,
    MAX_H,
    NORMALISER_X,
    NORMALISER_Y,
    REVERSE,
    ROW_FIELDS,
    X,
    Y,
    at_block,
    block_sums,
    excess,
    exp,
    load,
    merge_blocks,
)

# Columns per program and its warps, by kernel; `benchmarks/kl.py modes=tune` measures others.
BLOCK, WARPS = 4096, 8  # sums and flags
DENSE_BLOCK, DENSE_WARPS = 1024, 4
AT_BLOCK, AT_WARPS = 1024, 8

KINDS = {"reverse": 0, "forward": 1, "mixed": 2}


def serves(options: KLConfig, vocab_size: int) -> bool:
    """Whether these kernels know the divergence; the others take `opsd.kl.divergences`."""
    return options.kind in KINDS and not 0 < options.topk < vocab_size


def block_count(vocab_size: int) -> int:
    """Blocks of a row's sums, where they are gathered from several processes."""
    return triton.cdiv(vocab_size, BLOCK)


@dataclass(frozen=True)
class FusedChunk:
    """The comparison of one chunk of rows; N rows, V columns. Made by `compare`."""

    student: Float[Tensor, "N V"]  # logits
    teacher: Float[Tensor, "N V"]
    scale: Float[Tensor, " N"]  # weight / temperature
    options: KLConfig
    blocks: Float[Tensor, "N blocks fields"]
    rows: Float[Tensor, "fields N"]
    gradient: Float[Tensor, "N V"] | None  # of all columns, weighted; None: not formed

    @property
    def token_kl(self) -> Float[Tensor, " N"]:
        if self.options.kind == "reverse":
            return self.rows[REVERSE]
        if self.options.kind == "forward":
            return self.rows[FORWARD]
        return torch.lerp(self.rows[REVERSE], self.rows[FORWARD], self.options.mixed_weight)

    @property
    def normalisers(self) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
        """log sum exp of the student's logits, divided by the temperature, and of the teacher's."""
        return self.rows[NORMALISER_X], self.rows[NORMALISER_Y]

    @property
    def can_flag(self) -> bool:
        return self.options.kind == "reverse" and self.gradient is None

    def flag(self, eps: float, max_dropped: float) -> Int[Tensor, " V"]:
        """1 for each column in which |gradient| exceeds eps times the root mean square of the rows' gradient
        norms; all 1 when what the other columns hold is more than `max_dropped` of the gradient's norm.

        Only where `can_flag`. `max_dropped` is compared with the entries below the threshold, of which the
        flagged columns keep some: the gradient's true relative error is smaller.
        """
        count, vocab = self.student.shape
        blocks = self.blocks.shape[1]
        norm2 = torch.dot(self.rows[GRADIENT_NORM2], self.scale.square())
        flags = torch.zeros(vocab, dtype=torch.int32, device=self.student.device)
        dropped = torch.empty(count, blocks, dtype=torch.float32, device=self.student.device)
        _flag_columns[(blocks, count)](
            self.student, self.teacher, self.student.stride(0), self.teacher.stride(0), self.scale, norm2,
            eps / count**0.5, self.rows, self.blocks, flags, dropped, count, blocks, vocab,
            1.0 / self.options.temperature, TEMPERED=self.options.temperature != 1.0, BLOCK=BLOCK, num_warps=WARPS,
        )  # fmt: skip
        return flags.logical_or_(dropped.sum() > max_dropped**2 * norm2)

    def at(self, columns: Int[Tensor, " F"], dtype: torch.dtype) -> Float[Tensor, "N F"]:
        """The weighted gradient of the student's logits at some columns; 0 at column V."""
        gradient = torch.empty(len(self.student), len(columns), dtype=dtype, device=self.student.device)
        self._gradient(_gradient_at, (AT_BLOCK, AT_WARPS), columns, gradient)
        return gradient

    def dense(self, out: Float[Tensor, "N V"] | None = None) -> Float[Tensor, "N V"]:
        """The weighted gradient at all columns, in `out` or in place of the student's logits, which end here.

        Where `compare` formed it already, in its `out`, it is there.
        """
        if self.gradient is not None:
            return self.gradient
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
            gradient.stride(0), self.scale, self.rows, count, width, self.student.shape[1],
            1.0 / self.options.temperature, self.options.mixed_weight,
            TEMPERED=self.options.temperature != 1.0, KIND=KINDS[self.options.kind], BLOCK=block, num_warps=warps,
        )  # fmt: skip


def compare(
    student: Float[Tensor, "N V"],
    teacher: Float[Tensor, "N V"],
    weights: Float[Tensor, " N"],
    options: KLConfig,
    *,
    out: Float[Tensor, "N V"] | None = None,
    gather: Callable[[Tensor], Tensor] | None = None,
) -> FusedChunk:
    """Sums over both logits (computed in fp32; the last dimension contiguous), which are kept for the gradient.

    out: where the gradient of all columns will be wanted; it is formed in the same launch where that is possible.
    gather: for a vocabulary-sharded head, turns a process's block sums into those of all processes, in the
    vocabulary's order (`opsd.kl.vocab_parallel`).
    """
    count, vocab = student.shape
    at_once = out is not None and gather is None and kl_once_triton.serves(options, vocab, student.device)
    blocks = triton.cdiv(vocab, kl_once_triton.BLOCK if at_once else BLOCK)
    scale = weights if options.temperature == 1.0 else weights / options.temperature
    sums = torch.empty(count, blocks, BLOCK_FIELDS.value, dtype=torch.float32, device=student.device)
    if at_once:
        kl_once_triton.sums_and_gradient(student, teacher, scale, options.temperature, sums, out)
    else:
        block_sums[(blocks, count)](
            student, teacher, student.stride(0), teacher.stride(0), sums, blocks, vocab,
            1.0 / options.temperature, TEMPERED=options.temperature != 1.0, BLOCK=BLOCK, num_warps=WARPS,
        )  # fmt: skip
    everywhere = sums if gather is None else gather(sums)
    rows = torch.empty(ROW_FIELDS, count, dtype=torch.float32, device=student.device)
    merge_blocks[(count,)](
        everywhere, rows, count, everywhere.shape[1],
        BLOCKS=triton.next_power_of_2(everywhere.shape[1]), num_warps=2,
    )  # fmt: skip
    return FusedChunk(student, teacher, scale, options, sums, rows, out if at_once else None)


def extras(chunk: FusedChunk) -> dict[str, Tensor]:
    """Both entropies and the agreement. `chunk` must have been compared at temperature 1."""
    return {
        "student_entropy": chunk.rows[ENTROPY_X],
        "teacher_entropy": chunk.rows[ENTROPY_Y],
        "top1_agreement": chunk.rows[AGREEMENT],
    }


@triton.jit
def _gradient(x, y, rows, count, row, mixed_weight, KIND: tl.constexpr):
    """d divergence / d(x / temperature), from logits divided by it."""
    dx = x - tl.load(rows + row)
    p = exp(dx) * tl.load(rows + count + row)
    h = dx - (y - tl.load(rows + 4 * count + row))
    value = p * (h - tl.load(rows + 5 * count + row))
    if KIND != 0:
        q = exp(y - tl.load(rows + 2 * count + row)) * tl.load(rows + 3 * count + row)
        ratio = h + tl.load(rows + 6 * count + row)  # log p/q
        forward = tl.where(tl.abs(ratio) < 0.25, p * (ratio - excess(ratio)), p - q)
        if KIND == 1:
            value = forward
        else:
            value = mixed_weight * forward + (1.0 - mixed_weight) * value
    return value


@triton.jit(do_not_specialize=["count"])
def _gradient_everywhere(
    student, teacher, student_stride, teacher_stride, columns, gradient, gradient_stride, scale, rows, count,
    width, vocab, inverse_temperature, mixed_weight,
    TEMPERED: tl.constexpr, KIND: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    # From the last row back: the end of what `block_sums` read is still in the L2 cache.
    row = count - 1 - tl.program_id(1).to(tl.int64)
    column = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = column < width
    x = load(student + row * student_stride + column, inside, inverse_temperature, TEMPERED)
    y = load(teacher + row * teacher_stride + column, inside, inverse_temperature, TEMPERED)
    value = _gradient(x, y, rows, count, row, mixed_weight, KIND) * tl.load(scale + row)
    tl.store(gradient + row * gradient_stride + column, value.to(gradient.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["count", "width"])
def _gradient_at(
    student, teacher, student_stride, teacher_stride, columns, gradient, gradient_stride, scale, rows, count,
    width, vocab, inverse_temperature, mixed_weight,
    TEMPERED: tl.constexpr, KIND: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(1).to(tl.int64)
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = place < width
    column = tl.load(columns + place, mask=inside, other=vocab)
    known = column < vocab
    x = load(student + row * student_stride + column, known, inverse_temperature, TEMPERED)
    y = load(teacher + row * teacher_stride + column, known, inverse_temperature, TEMPERED)
    value = _gradient(x, y, rows, count, row, mixed_weight, KIND) * tl.load(scale + row)
    value = tl.where(known, value, 0.0)
    tl.store(gradient + row * gradient_stride + place, value.to(gradient.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["count", "blocks"])
def _flag_columns(
    student, teacher, student_stride, teacher_stride, scale, norm2, eps, rows, sums, flags, dropped,
    count, blocks, vocab, inverse_temperature, TEMPERED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    block = tl.program_id(0)
    row = tl.program_id(1).to(tl.int64)
    threshold = eps * tl.sqrt(tl.load(norm2).to(tl.float32))
    row_scale = tl.load(scale + row)
    here = at_block(sums, row, block, blocks)
    x_gap = tl.load(rows + row) - tl.load(here + X)
    moved = tl.load(rows + 4 * count + row) - tl.load(here + Y) - x_gap
    centre = tl.load(rows + 5 * count + row) - moved
    likeliest = tl.exp(-x_gap) * tl.load(rows + count + row)  # p, in this block
    most = likeliest * (tl.load(here + MAX_H) + tl.abs(centre)) * tl.abs(row_scale)
    if most <= threshold:
        e2_h2 = tl.load(here + E2_H2)
        e2_h = tl.load(here + E2_H)
        e2 = tl.load(here + E2)
        square = e2_h2 - 2.0 * centre * e2_h + centre * centre * e2
        lost = tl.maximum(square, 0.0) * likeliest * likeliest
        tl.store(dropped + row * blocks + block, lost * row_scale * row_scale)
    else:
        column = block * BLOCK + tl.arange(0, BLOCK)
        inside = column < vocab
        x = load(student + row * student_stride + column, inside, inverse_temperature, TEMPERED)
        y = load(teacher + row * teacher_stride + column, inside, inverse_temperature, TEMPERED)
        value = _gradient(x, y, rows, count, row, 0.0, 0) * row_scale
        over = ~(tl.abs(value) <= threshold)  # so that what is not finite is kept
        tl.store(flags + column, tl.full((BLOCK,), 1, tl.int32), mask=over & inside)
        lost = tl.sum(tl.where(over, 0.0, value * value), axis=0)
        tl.store(dropped + row * blocks + block, lost)
