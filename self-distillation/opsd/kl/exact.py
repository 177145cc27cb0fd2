"""The exact KL of Phase 2 (section 2.2 of arXiv:2604.12002), from hidden states, without the [T, V] logits.

    loss = sum_t weights[t] * KL( student(. | x, y_<t) || teacher(. | x, y, P_r, y_<t) )

Only the logits of one chunk of tokens exist at a time. The chunk's gradient is formed immediately and folded into
the gradients of the hidden states and of the lm_head, so that nothing of the chunk remains; `backward` only
multiplies by the incoming gradient. README.md beside this file has the map.
"""

import contextlib
import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float, Int
from torch import Tensor

from opsd.kl.chunks import FUSED_CHUNK_TOKENS, chunk_size, split
from opsd.kl.compare import ChunkComparison, fused_kernels_support
from opsd.kl.dense import DenseAccumulator
from opsd.kl.divergences import KLConfig
from opsd.kl.gradients import PrecomputedGradient, StudentGradients
from opsd.kl.inputs import check_targets, check_tensors, resolve_vocabulary
from opsd.kl.lm_head import LMHead
from opsd.kl.logit_transform import IDENTITY, LogitTransform
from opsd.kl.sparse import SparseAccumulator

Trained = tuple[Tensor, Tensor, Tensor | None]  # the student's hidden states, lm_head weight and bias


@dataclass(frozen=True)
class KLOutput:
    """`loss` is differentiable, everything else is detached; values are in nats, T tokens as in the inputs.

    Tokens of weight zero are not computed: they hold 0 (False in `top1_agreement`). Entropies and
    log-probabilities are over the whole vocabulary at temperature 1, whatever the config; they are fp32, as is
    `token_kl`, which `KLConfig.clip` leaves as it is. None: not requested. `top1_agreement`: both models' most
    likely token is the same.
    `dropped_vocab_fraction`: the fraction of the vocabulary that the gradient left out, averaged over tokens (0
    where `grad_eps` is 0); None without a gradient.
    """

    loss: Float[Tensor, ""]
    token_kl: Float[Tensor, " T"]
    student_entropy: Float[Tensor, " T"] | None = None
    teacher_entropy: Float[Tensor, " T"] | None = None
    student_logprob: Float[Tensor, " T"] | None = None
    teacher_logprob: Float[Tensor, " T"] | None = None
    top1_agreement: Bool[Tensor, " T"] | None = None
    dropped_vocab_fraction: float | None = None


def exact_kl(
    student_hidden: Float[Tensor, "T Hs"],
    student_head: Float[Tensor, "Vs Hs"],
    teacher_hidden: Float[Tensor, "T Ht"],
    teacher_head: Float[Tensor, "Vt Ht"],
    weights: Float[Tensor, " T"],
    *,
    config: KLConfig = KLConfig(),  # noqa: B008 - frozen
    targets: Int[Tensor, " T"] | None = None,
    student_bias: Float[Tensor, " Vs"] | None = None,
    teacher_bias: Float[Tensor, " Vt"] | None = None,
    student_transform: LogitTransform = IDENTITY,
    teacher_transform: LogitTransform = IDENTITY,
    vocab_size: int | None = None,
    chunk_tokens: int | None = None,
    with_stats: bool = True,
    grad_eps: float = 0.0,
    group: dist.ProcessGroup | None = None,
) -> KLOutput:
    """sum_t weights[t] * divergence_t between student and teacher, over the whole vocabulary V.

    student_hidden, teacher_hidden: the inputs of each model's lm_head; position t of both predicts the same token.
    student_head, teacher_head: the lm_heads' weights, logits = transform(hidden @ head.T (+ bias)); the models may
        differ in H and dtype.
    weights: a constant. A token of weight zero contributes exactly nothing, whatever its hidden states and target.
    targets: token ids whose log-probability under both models is requested.
    student_transform, teacher_transform: what each model does to its logits (scaling, soft-capping).
    vocab_size: V; rows of the weights and biases beyond it are padding. None: all rows, of which both models must
        then have the same number.
    chunk_tokens: tokens per chunk. None: as many as fit CHUNK_ELEMENTS (of opsd.kl.chunks) logits or, with the
        fused kernels, the free memory (with `group`, FUSED_CHUNK_TOKENS: all processes must use the same). Results
        do not depend on it beyond rounding, memory does.
    with_stats: False leaves out the entropies, the log-probabilities and the agreement.
    grad_eps: vocab entries are left out of a chunk's gradient where no token's gradient exceeds grad_eps times the
        root mean square of the tokens' gradient norms; the value is always over all entries. A chunk in which that
        would lose more than 2e-3 of the gradient, or leave out too few entries to be worthwhile, uses all of them.
        0: always use all.
    group: the vocabulary is sharded over its processes in the order of their ranks (tensor parallel). lm_head
        weights and biases are then this process's rows as plain tensors: as many in both models, but not
        necessarily in all processes. Everything else, `vocab_size` and `targets` included, refers to the whole and
        is the same in all processes. Every process gets the whole output, the whole gradient of the hidden states,
        and the gradient of its own rows of weight and bias. None: the lm_heads are complete. (They are under
        FSDP2, too: pass what its all-gather yields, and no group.)

    Gradients reach student_hidden, student_head and student_bias, where they require them, and never the teacher.
    They have the inputs' dtypes; the lm_head's is accumulated in fp32. Logits, softmax and divergence are fp32, or
    fp64 as soon as one of the hidden states, weights and biases of the models is fp64. On CUDA, bf16 and fp16
    matrices are multiplied in their own dtype with fp32 output, and for bf16 models the logits' gradient is
    rounded to bf16 before its two products; elsewhere the operands are upcast piece by piece. An enclosing
    autocast is ignored. The gradient cannot itself be differentiated.

    Raises ValueError, naming the argument, for invalid shapes, dtypes, devices, targets or sizes.
    """
    tensors = {
        "student_hidden": student_hidden,
        "student_head": student_head,
        "student_bias": student_bias,
        "teacher_hidden": teacher_hidden,
        "teacher_head": teacher_head,
        "teacher_bias": teacher_bias,
        "weights": weights,
        "targets": targets,
    }
    tensors = {name: x for name, x in tensors.items() if x is not None}
    check_tensors(tensors)
    vocabulary, local_vocab, total_vocab = resolve_vocabulary(vocab_size, student_head, teacher_head, group)
    if not (math.isfinite(grad_eps) and grad_eps >= 0):
        raise ValueError(f"grad_eps is {grad_eps}, expected 0 (off) or a positive number")

    is_double = any(x.dtype == torch.float64 for name, x in tensors.items() if name != "weights")
    compute = torch.float64 if is_double else torch.float32
    weights = weights.to(compute)
    counted = weights.nonzero()[:, 0]
    if targets is not None:
        check_targets(targets[counted], total_vocab)
    fused = compute == torch.float32 and fused_kernels_support(weights.device, config, total_vocab)
    if chunk_tokens is None and fused and group is not None:
        # Not by free memory, which differs: processes with more chunks would wait for the others forever.
        chunk_tokens = FUSED_CHUNK_TOKENS
    # Two models' logits; with a cap also its derivative.
    buffers = 2 if student_transform.cap is None else 3
    chunk_tokens = chunk_size(chunk_tokens, local_vocab, len(counted), weights.device, fused, buffers)

    trained = (student_hidden, student_head, student_bias)
    comparison = ChunkComparison(
        student=LMHead(
            student_hidden.detach(), student_head.detach(), student_bias, local_vocab, compute, student_transform
        ),
        teacher=LMHead(
            teacher_hidden.detach(), teacher_head.detach(), teacher_bias, local_vocab, compute, teacher_transform
        ),
        weights=weights,
        targets=targets,
        config=config,
        vocabulary=vocabulary,
        with_gradient=torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in trained),
        with_stats=with_stats,
        fused=fused,
    )
    with torch.no_grad(), torch.autocast(weights.device.type, enabled=False), _on_device(weights.device):
        values, gradients = _compare_all(comparison, counted, chunk_tokens, trained, grad_eps)
        token_kl = values["token_kl"]
        loss = (weights * (token_kl if config.clip is None else token_kl.clamp(max=config.clip))).sum()
    output: dict[str, Any] = {name: x.float() for name, x in values.items()}
    if with_stats:
        output["top1_agreement"] = output["top1_agreement"].bool()
    if gradients is not None:
        output["dropped_vocab_fraction"] = gradients.dropped_vocab_fraction()
        loss = PrecomputedGradient.apply(loss, *trained, gradients)
    return KLOutput(loss=loss, **output)


def _compare_all(
    comparison: ChunkComparison, counted: Int[Tensor, " S"], chunk_tokens: int, trained: Trained, grad_eps: float
) -> tuple[dict[str, Float[Tensor, " T"]], StudentGradients | None]:
    """Chunk by chunk, the values of the `counted` tokens by name (0 elsewhere), and the student's gradients."""
    names, total = comparison.names, len(comparison.weights)
    values = comparison.weights.new_zeros(len(names), total)
    accumulator = None
    for tokens in split(counted, total, chunk_tokens):
        logits = comparison.logits(tokens)
        if comparison.with_gradient and accumulator is None:
            # Only now: setting it up costs the host time, during which the GPU computes the first chunk's logits.
            accumulator = _accumulator(comparison, trained, len(counted), grad_eps)
        reservation = accumulator.reserve(tokens) if accumulator else None
        chunk_values, gradient = comparison.compare(tokens, logits, reservation)
        del logits  # the gradient holds them where it still needs them
        values[:, tokens] = torch.stack([chunk_values[name].to(values.dtype) for name in names])
        if accumulator and gradient:
            accumulator.add(tokens, gradient, reservation)
        del chunk_values, gradient  # frees the logits before the next chunk's are computed
    by_name = dict(zip(names, values, strict=True))
    if not comparison.with_gradient:
        return by_name, None

    if accumulator is None:  # no token has a weight
        accumulator = _accumulator(comparison, trained, len(counted), grad_eps)
    for tokens in accumulator.take_retries():
        logits = comparison.logits(tokens)
        reservation = accumulator.reserve(tokens)
        _, gradient = comparison.compare(tokens, logits, reservation)
        del logits
        if gradient:
            accumulator.add(tokens, gradient, reservation, blocking=True)
        del gradient
    accumulator.finish()
    return by_name, accumulator.gradients


def _accumulator(
    comparison: ChunkComparison, trained: Trained, counted: int, grad_eps: float
) -> DenseAccumulator | SparseAccumulator:
    # With a cap, the gradient of a token's logits no longer sums to zero: see `sparse`.
    subtract_mean_row = grad_eps > 0 and comparison.student.transform.cap is None
    gradients = StudentGradients(
        comparison.student, trained, comparison.vocabulary, subtract_mean_row, comparison.fused
    )
    dense = DenseAccumulator(gradients, counted)
    return SparseAccumulator(gradients, dense, grad_eps) if grad_eps else dense


def _on_device(device: torch.device) -> contextlib.AbstractContextManager:
    """Triton launches its kernels on the current device."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()
