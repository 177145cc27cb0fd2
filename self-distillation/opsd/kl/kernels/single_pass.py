"""Sums and gradient of reverse KL in one launch that reads every logit once.

A program holds its block of a row's logits in registers. It leaves the block's sums, waits until those of the
whole row are there, merges the four that the gradient needs, and forms the gradient of what it still holds. Two
launches (`kl_triton`) read the logits twice.

Nobody waits forever: the programs take their blocks in the order in which they started, so the blocks of the first
row that is not complete are all taken by running programs, or will be by the next to start; whoever waits has left
its own sums before. That needs room on the GPU for the programs of one row side by side (`serves`).
"""

import functools

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from opsd.kl.divergences import KLConfig
from opsd.kl.kernels.block_sums import E_H, E, X, Y, at_block, exp, load, sum_block

# Columns per program, its warps, and their registers. Large blocks: the fewer programs wait for each other, the
# better; with these registers what a program holds while it waits does not spill.
BLOCK, WARPS, REGISTERS = 8192, 8, 128


def serves(options: KLConfig, vocab_size: int, device: torch.device) -> bool:
    """Whether the divergence is the one known here and a row's programs run side by side on half of the GPU."""
    if options.kind != "reverse" or device.type != "cuda" or torch.version.hip:  # ROCm: nothing limits registers
        return False
    return triton.cdiv(vocab_size, BLOCK) <= _programs_side_by_side(device) // 2


@functools.cache
def _programs_side_by_side(device: torch.device) -> int:
    properties = torch.cuda.get_device_properties(device)
    return properties.multi_processor_count * (properties.regs_per_multiprocessor // (REGISTERS * WARPS * 32))


def sums_and_gradient(
    student: Float[Tensor, "N V"],
    teacher: Float[Tensor, "N V"],
    scale: Float[Tensor, " N"],
    temperature: float,
    sums: Float[Tensor, "N blocks fields"],
    out: Float[Tensor, "N V"],
) -> None:
    """Writes the sums of the blocks of BLOCK columns (see `kl_sums_triton`) and, in `out`, the gradient of the
    student's logits times `scale`."""
    count, blocks = sums.shape[:2]
    arrived = torch.zeros(count + 1, dtype=torch.int32, device=student.device)
    _sums_and_gradient[(count * blocks,)](
        student, teacher, student.stride(0), teacher.stride(0), sums, arrived, out, out.stride(0), scale, count,
        blocks, student.shape[1], 1.0 / temperature, TEMPERED=temperature != 1.0, BLOCK=BLOCK,
        BLOCKS=triton.next_power_of_2(blocks), num_warps=WARPS, maxnreg=REGISTERS,
    )  # fmt: skip


@triton.jit
def _join(x0, y0, e0, e_h0, x1, y1, e1, e_h1):
    """Sums of two parts of a row as if taken from the same X and Y, those of the part with the larger X."""
    first = x0 >= x1
    x = tl.where(first, x0, x1)
    y = tl.where(first, y0, y1)
    scale0 = exp(x0 - x)
    scale1 = exp(x1 - x)
    moved0 = (y - y0) - (x - x0)
    moved1 = (y - y1) - (x - x1)
    e_h = scale0 * (e_h0 + moved0 * e0) + scale1 * (e_h1 + moved1 * e1)
    return x, y, scale0 * e0 + scale1 * e1, e_h


@triton.jit
def _of_row(sums, field, row, blocks, peer, there, other):
    # .cg: from the L2 cache, where the other programs' stores are.
    return tl.load(at_block(sums, row, peer, blocks) + field, mask=there, other=other, cache_modifier=".cg")


@triton.jit(do_not_specialize=["count", "blocks"])
def _sums_and_gradient(
    student, teacher, student_stride, teacher_stride, sums, arrived, gradient, gradient_stride, scale, count,
    blocks, vocab, inverse_temperature,
    TEMPERED: tl.constexpr, BLOCK: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    # arrived: the blocks of each row whose sums are there; behind them the number of programs that have started.
    number = tl.atomic_add(arrived + count, 1, sem="relaxed")
    row = (number // blocks).to(tl.int64)
    block = number % blocks
    column = block * BLOCK + tl.arange(0, BLOCK)
    inside = column < vocab
    x = load(student + row * student_stride + column, inside, inverse_temperature, TEMPERED)
    y = load(teacher + row * teacher_stride + column, inside, inverse_temperature, TEMPERED)
    row_scale = tl.load(scale + row)
    sum_block(x, y, sums, row, block, blocks, False)

    tl.debug_barrier()  # all of the program's stores come before its arrival
    tl.atomic_add(arrived + row, 1, sem="release")
    # An acquiring look empties the caches around it: only the last one is.
    while tl.atomic_add(arrived + row, 0, sem="relaxed") < blocks:
        pass
    tl.atomic_add(arrived + row, 0, sem="acquire")
    tl.debug_barrier()

    peer = tl.arange(0, BLOCKS)
    known = peer < blocks
    x_max, y_shift, e_sum, e_h = tl.reduce(
        (
            _of_row(sums, X, row, blocks, peer, known, -1e30),
            _of_row(sums, Y, row, blocks, peer, known, 0.0),
            _of_row(sums, E, row, blocks, peer, known, 0.0),
            _of_row(sums, E_H, row, blocks, peer, known, 0.0),
        ),
        axis=0,
        combine_fn=_join,
    )
    dx = x - x_max
    value = exp(dx) * (row_scale / e_sum) * (dx - (y - y_shift) - e_h / e_sum)
    tl.store(gradient + row * gradient_stride + column, value.to(gradient.dtype.element_ty), mask=inside)
