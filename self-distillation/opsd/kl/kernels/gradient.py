"""Kernels of the exact KL that turn logits and the merged sums of their tokens into the gradient of the logits."""

# pyright: basic, reportArgumentType=false
# (Kernel bodies are Triton's language, not Python's: scalars become constexpr.)

import triton
import triton.language as tl

from opsd.kl.kernels.block_sums import (
    E2,
    E2_H,
    E2_H2,
    INVERSE_SUM_X,
    INVERSE_SUM_Y,
    LOG_U,
    MAX_H,
    MAX_X,
    MEAN_H,
    REFERENCE_Y,
    SHIFT_Y,
    X,
    Y,
    block_field,
    excess,
    exp,
    load,
    load_token_field,
)


@triton.jit
def _gradient(x, y, stats, tokens, token, mixed_weight, KIND: tl.constexpr):
    """d divergence / d(x / temperature), from logits divided by it."""
    dx = x - load_token_field(stats, MAX_X, token, tokens)
    p = exp(dx) * load_token_field(stats, INVERSE_SUM_X, token, tokens)
    h = dx - (y - load_token_field(stats, SHIFT_Y, token, tokens))
    value = p * (h - load_token_field(stats, MEAN_H, token, tokens))
    if KIND != 0:
        q = exp(y - load_token_field(stats, REFERENCE_Y, token, tokens))
        q = q * load_token_field(stats, INVERSE_SUM_Y, token, tokens)
        ratio = h + load_token_field(stats, LOG_U, token, tokens)  # log p/q
        forward = tl.where(tl.abs(ratio) < 0.25, p * (ratio - excess(ratio)), p - q)
        if KIND == 1:
            value = forward
        else:
            value = mixed_weight * forward + (1.0 - mixed_weight) * value
    return value


@triton.jit(do_not_specialize=["tokens"])
def gradient_everywhere(
    student,
    teacher,
    student_stride,
    teacher_stride,
    entries,
    gradient,
    gradient_stride,
    scale,
    stats,
    tokens,
    width,
    vocab,
    inverse_temperature,
    mixed_weight,
    TEMPERED: tl.constexpr,
    KIND: tl.constexpr,
    BLOCK: tl.constexpr,
):
    # Backwards from the last token: the end of what `block_sums` read is still in the L2 cache.
    token = tokens - 1 - tl.program_id(1).to(tl.int64)
    entry = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = entry < width
    x = load(student + token * student_stride + entry, inside, inverse_temperature, TEMPERED)
    y = load(teacher + token * teacher_stride + entry, inside, inverse_temperature, TEMPERED)
    value = _gradient(x, y, stats, tokens, token, mixed_weight, KIND) * tl.load(scale + token)
    tl.store(gradient + token * gradient_stride + entry, value.to(gradient.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["tokens", "width"])
def gradient_at_entries(
    student,
    teacher,
    student_stride,
    teacher_stride,
    entries,
    gradient,
    gradient_stride,
    scale,
    stats,
    tokens,
    width,
    vocab,
    inverse_temperature,
    mixed_weight,
    TEMPERED: tl.constexpr,
    KIND: tl.constexpr,
    BLOCK: tl.constexpr,
):
    token = tl.program_id(1).to(tl.int64)
    position = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = position < width
    entry = tl.load(entries + position, mask=inside, other=vocab)
    known = entry < vocab
    x = load(student + token * student_stride + entry, known, inverse_temperature, TEMPERED)
    y = load(teacher + token * teacher_stride + entry, known, inverse_temperature, TEMPERED)
    value = _gradient(x, y, stats, tokens, token, mixed_weight, KIND) * tl.load(scale + token)
    value = tl.where(known, value, 0.0)
    tl.store(gradient + token * gradient_stride + position, value.to(gradient.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["tokens", "blocks"])
def flag_entries(
    student,
    teacher,
    student_stride,
    teacher_stride,
    scale,
    norm2,
    eps,
    stats,
    sums,
    flags,
    dropped,
    tokens,
    blocks,
    vocab,
    inverse_temperature,
    TEMPERED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    block = tl.program_id(0)
    token = tl.program_id(1).to(tl.int64)
    threshold = eps * tl.sqrt(tl.load(norm2).to(tl.float32))
    token_scale = tl.load(scale + token)
    here = block_field(sums, 0, token, block, blocks)
    x_gap = load_token_field(stats, MAX_X, token, tokens) - tl.load(here + X)
    y_gap = load_token_field(stats, SHIFT_Y, token, tokens) - tl.load(here + Y)
    moved = y_gap - x_gap  # the token's h = the block's h + moved
    center = load_token_field(stats, MEAN_H, token, tokens) - moved
    largest_p = tl.exp(-x_gap) * load_token_field(stats, INVERSE_SUM_X, token, tokens)  # of the block
    max_h = tl.load(here + MAX_H)
    most = largest_p * (max_h + tl.abs(center)) * tl.abs(token_scale)
    if most <= threshold:
        e2_h2 = tl.load(here + E2_H2)
        e2_h = tl.load(here + E2_H)
        e2 = tl.load(here + E2)
        square = e2_h2 - 2.0 * center * e2_h + center * center * e2
        lost = tl.maximum(square, 0.0) * largest_p * largest_p
        tl.store(dropped + token * blocks + block, lost * token_scale * token_scale)
    else:
        entry = block * BLOCK + tl.arange(0, BLOCK)
        inside = entry < vocab
        x = load(student + token * student_stride + entry, inside, inverse_temperature, TEMPERED)
        y = load(teacher + token * teacher_stride + entry, inside, inverse_temperature, TEMPERED)
        value = _gradient(x, y, stats, tokens, token, 0.0, 0) * token_scale
        over = ~(tl.abs(value) <= threshold)  # True for values that are not finite
        tl.store(flags + entry, tl.full((BLOCK,), 1, tl.int32), mask=over & inside)
        lost = tl.sum(tl.where(over, 0.0, value * value), axis=0)
        tl.store(dropped + token * blocks + block, lost)
