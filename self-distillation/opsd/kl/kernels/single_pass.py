"""Sums and gradient of reverse KL in one launch that reads every logit once.

A program holds its block of a token's logits in registers. It writes the block's sums, waits until those of all
the token's blocks are written, merges the four that the gradient needs, and forms the gradient of the logits it
still holds. Two launches (`fused`) read the logits twice.

What progress this assumes. Programs take their blocks in the order in which they started, so that the blocks of
the first incomplete token are all taken by running programs, or will be by the next ones to start; a program that
waits has already written its own sums, and one that runs is never suspended for good. Programs that wait keep
their place on the GPU, so all programs of one token must fit on it together, beside whatever else occupies it:
`supports` requires that they fit on half of it, as this process sees it. That is enough beside another such launch
(one that cannot fill its half leaves the other half to this one) and beside kernels that end by themselves, which
give their place back. It is NOT enough where three such launches share a GPU, or where MPS gives this process
fewer multiprocessors than the device reports (CUDA_MPS_ACTIVE_THREAD_PERCENTAGE): every place could then be taken
by programs that wait for one that cannot start. `KLConfig.single_pass=False` (KL_SINGLE_PASS=0) turns the kernel
off for such machines; it is also off where MPS is told to limit this process.
"""

# pyright: basic, reportArgumentType=false, reportCallIssue=false
# (Kernel bodies are Triton's language, not Python's, and launches have parameters that Triton's types omit.)

import functools
import os

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from opsd.kl.divergences import KLConfig
from opsd.kl.kernels.block_sums import E_H, E, X, Y, block_field, exp, load, sum_block

# Vocab entries per program, its warps, and their registers. Blocks are large because the fewer programs wait for
# each other, the better; with this many registers, what a program holds while it waits does not spill.
BLOCK, WARPS, REGISTERS = 8192, 8, 128

MPS_LIMIT = "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"  # MPS: the share of the GPU that this process may use


def supports(config: KLConfig, vocab_size: int, device: torch.device) -> bool:
    """Whether the kernel is allowed, the divergence is the reverse KL, and a token's programs fit on half of the
    GPU at the same time."""
    if not config.single_pass or os.environ.get(MPS_LIMIT):
        return False
    if config.kind != "reverse" or device.type != "cuda" or torch.version.hip:  # no register limit on ROCm
        return False
    return triton.cdiv(vocab_size, BLOCK) <= _concurrent_programs(device) // 2


@functools.cache
def _concurrent_programs(device: torch.device) -> int:
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
    """Writes the sums of the blocks of BLOCK vocab entries (see `block_sums`) to `sums`, and the gradient of the
    student's logits times `scale` to `out`."""
    tokens, blocks = sums.shape[:2]
    arrived = torch.zeros(tokens + 1, dtype=torch.int32, device=student.device)
    _sums_and_gradient[(tokens * blocks,)](
        student,
        teacher,
        student.stride(0),
        teacher.stride(0),
        sums,
        arrived,
        out,
        out.stride(0),
        scale,
        tokens,
        blocks,
        student.shape[1],
        1.0 / temperature,
        TEMPERED=temperature != 1.0,
        BLOCK=BLOCK,
        BLOCKS=triton.next_power_of_2(blocks),
        num_warps=WARPS,
        maxnreg=REGISTERS,
    )


@triton.jit
def _join(x0, y0, e0, e_h0, x1, y1, e1, e_h1):
    """Sums of two parts of a token's logits, relative to the X and Y of the part with the larger X."""
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
def _load_peers(sums, field, token, blocks, peer, known, other):
    # .cg: from the L2 cache, where the other programs' stores are.
    return tl.load(block_field(sums, field, token, peer, blocks), mask=known, other=other, cache_modifier=".cg")


@triton.jit(do_not_specialize=["tokens", "blocks"])
def _sums_and_gradient(
    student,
    teacher,
    student_stride,
    teacher_stride,
    sums,
    arrived,
    gradient,
    gradient_stride,
    scale,
    tokens,
    blocks,
    vocab,
    inverse_temperature,
    TEMPERED: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCKS: tl.constexpr,
):
    # arrived: for each token, the blocks whose sums are written; then, the number of programs started so far.
    number = tl.atomic_add(arrived + tokens, 1, sem="relaxed")
    token = (number // blocks).to(tl.int64)
    block = number % blocks
    entry = block * BLOCK + tl.arange(0, BLOCK)
    inside = entry < vocab
    x = load(student + token * student_stride + entry, inside, inverse_temperature, TEMPERED)
    y = load(teacher + token * teacher_stride + entry, inside, inverse_temperature, TEMPERED)
    token_scale = tl.load(scale + token)
    sum_block(x, y, sums, token, block, blocks, False)

    tl.debug_barrier()  # all of the program's stores precede its arrival
    tl.atomic_add(arrived + token, 1, sem="release")
    # An acquiring read invalidates caches: only the last read acquires.
    while tl.atomic_add(arrived + token, 0, sem="relaxed") < blocks:
        pass
    tl.atomic_add(arrived + token, 0, sem="acquire")
    tl.debug_barrier()

    peer = tl.arange(0, BLOCKS)
    known = peer < blocks
    x_max, y_shift, e_sum, e_h = tl.reduce(
        (
            _load_peers(sums, X, token, blocks, peer, known, -1e30),
            _load_peers(sums, Y, token, blocks, peer, known, 0.0),
            _load_peers(sums, E, token, blocks, peer, known, 0.0),
            _load_peers(sums, E_H, token, blocks, peer, known, 0.0),
        ),
        axis=0,
        combine_fn=_join,
    )
    dx = x - x_max
    value = exp(dx) * (token_scale / e_sum) * (dx - (y - y_shift) - e_h / e_sum)
    tl.store(gradient + token * gradient_stride + entry, value.to(gradient.dtype.element_ty), mask=inside)
