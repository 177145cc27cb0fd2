"""The exact KL of Phase 2 (section 2.2 of arXiv:2604.12002), from hidden states, without the [T, V] logits.

    loss = sum_t weights[t] * KL( student(. | x, y_<t) || teacher(. | x, y, P_r, y_<t) )

The logits of one chunk of rows exist at a time. The chunk's gradient is formed right away and folded into the
gradients of the hidden states and of the head, so nothing of the chunk outlives it; `backward` only
multiplies by the incoming gradient.

On CUDA a chunk is compared by fused kernels (kernels/fused.py), elsewhere and for the options they do not know by
torch (divergences.py). gradients.py collects the chunks' gradients, sparse.py leaves columns without gradient out
of them, vocab_parallel.py joins processes that each hold a part of the vocabulary.
"""

import contextlib
import functools
import importlib.util
import math
from dataclasses import dataclass

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float, Int
from torch import Tensor

from opsd.kl import lm_head as kl_head
from opsd.kl.divergences import WHOLE, KLConfig, Vocabulary, compare_chunk
from opsd.kl.gradients import AttachGradients, DenseGradient, Gradients
from opsd.kl.lm_head import Head, Rows, row_count
from opsd.kl.vocab_parallel import ShardedVocabulary

__all__ = ["KLConfig", "KLOutput", "exact_kl"]

# With the fused kernels: most rows per chunk (products of more rows are no faster), and the part of the free
# memory that both models' logits may take.
FUSED_ROWS = 1024
FUSED_MEMORY = 0.5


@dataclass(frozen=True)
class KLOutput:
    """`loss` is differentiable, all else is detached; nats throughout; T rows as in the inputs.

    Rows of weight zero are not computed: they hold 0 (False in `top1_agreement`). Entropies and log-probabilities
    are over the whole vocabulary at temperature 1, whatever the options; they are fp32, as is `token_kl`.
    None: not asked for. `top1_agreement`: both models' likeliest token is the same. `dropped_vocab_fraction`: the
    share of the vocabulary that the gradient left out, on average over rows (0 where `grad_eps` is); None without
    a gradient.
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
    options: KLConfig = KLConfig(),  # noqa: B008 - frozen
    targets: Int[Tensor, " T"] | None = None,
    student_bias: Float[Tensor, " Vs"] | None = None,
    teacher_bias: Float[Tensor, " Vt"] | None = None,
    vocab_size: int | None = None,
    chunk_tokens: int | None = None,
    extras: bool = True,
    grad_eps: float = 0.0,
    group: dist.ProcessGroup | None = None,
) -> KLOutput:
    """sum_t weights[t] * divergence_t between student and teacher, over the whole vocabulary V.

    student_hidden, teacher_hidden: what feeds each model's head, row t of both predicting the same token.
    student_head, teacher_head: logits = hidden @ head.T (+ bias); the two models may differ in H and dtype.
    weights: a constant. A row of weight zero contributes exactly nothing, whatever its hidden states and
        target hold.
    targets: token ids whose log-probability under both models is wanted.
    vocab_size: V; head rows and biases beyond it are padding. None: all rows, which must then be as many in
        both.
    chunk_tokens: rows per chunk; None takes as many as fit CHUNK_ELEMENTS (of opsd.kl.lm_head) logits or, with the
        fused kernels, the free memory (with `group`, FUSED_ROWS: it must be the same in all processes). The
        results do not depend on it beyond rounding, memory does.
    extras: False leaves out the entropies, the log-probabilities and the agreement.
    grad_eps: a chunk's columns take no part in its gradient where no entry of the logits' gradient exceeds
        grad_eps times the root mean square of its rows' gradient norms; the value is of all columns. A chunk
        in which that would lose more than 2e-3 of the gradient, or too few columns to be worth it, takes all.
        0: all columns, always.
    group: the vocabulary is sharded over its processes in the order of their ranks (tensor parallel). Heads
        and biases are this process's rows, plain tensors, as many in both models but not in all processes;
        all else, `vocab_size` and `targets` included, is of the whole and the same in all processes. Every
        process gets the whole output, the whole gradient of the hidden states, and its own rows' gradient of
        head and bias. None: the heads are whole. (Under FSDP2 the heads come whole too: pass what its
        all-gather yields, and no group.)

    Gradients reach student_hidden, student_head and student_bias, where they require them, and never the
    teacher. They come back in the inputs' dtypes; the head's is accumulated in fp32. Logits, softmax and
    divergence are fp32, or fp64 as soon as one of the hidden states, heads and biases is fp64. On CUDA, bf16
    and fp16 matrices are multiplied as they are, with fp32 output, and for bf16 models the logits' gradient
    is rounded to bf16 before its two products; elsewhere the operands are upcast piece by piece. An enclosing
    autocast is ignored. The gradient cannot itself be differentiated.

    Raises ValueError, naming the argument, for shapes, dtypes, devices, targets or sizes that do not fit.
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
    _check_tensors(tensors)
    vocabulary, columns, total_columns = _vocabulary(vocab_size, student_head, teacher_head, group)
    if not (math.isfinite(grad_eps) and grad_eps >= 0):
        raise ValueError(f"grad_eps is {grad_eps}, expected 0 (off) or a positive number")

    is_double = any(x.dtype == torch.float64 for name, x in tensors.items() if name != "weights")
    compute = torch.float64 if is_double else torch.float32
    student = Head(student_hidden.detach(), student_head.detach(), student_bias, columns, compute)
    teacher = Head(teacher_hidden.detach(), teacher_head.detach(), teacher_bias, columns, compute)
    weights = weights.to(compute)
    rows = weights.nonzero()[:, 0]
    if targets is not None:
        _check_targets(targets[rows], total_columns)
    fused = compute == torch.float32 and _fused_kernels_serve(weights.device, options, total_columns)
    if chunk_tokens is None and fused and group is not None:
        # Not by free memory, which differs: processes with more chunks would wait for the others forever.
        chunk_tokens = FUSED_ROWS
    chunk_tokens = _checked_chunk_tokens(chunk_tokens, columns, len(rows), weights.device, fused)

    trained = (student_hidden, student_head, student_bias)
    with_gradient = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in trained)
    names = _column_names(extras, targets is not None)
    table = weights.new_zeros(len(names), len(weights))

    # Made when the GPU has the first chunk's logits to compute: the host is slow beside it.
    gradients = functools.cache(lambda: Gradients(student, trained, grad_eps, vocabulary, len(rows), fused))

    def compared(chunk: Rows) -> tuple[dict[str, Tensor], DenseGradient | None]:
        logits = student.logits(chunk), teacher.logits(chunk)
        chunk_targets = None if targets is None else targets[chunk].long()
        arguments = (*logits, weights[chunk], chunk_targets, options)
        wanted = {"with_gradient": with_gradient, "with_extras": extras, "vocabulary": vocabulary}
        if not fused:
            return _compare(*arguments, **wanted)
        place = gradients().place_for(row_count(chunk)) if with_gradient else None
        return _compare_fused(*arguments, **wanted, out=place)

    with torch.no_grad(), torch.autocast(weights.device.type, enabled=False), _kernels_run_on(weights.device):
        for start in range(0, len(rows), chunk_tokens):
            chunk: Rows = slice(start, min(start + chunk_tokens, len(rows)))
            if len(rows) < len(weights):
                chunk = rows[chunk]
            values, gradient = compared(chunk)
            table[:, chunk] = torch.stack([values[name].to(compute) for name in names])
            if with_gradient:
                gradients().add(chunk, gradient)
            del values, gradient  # or the next chunk's logits would be made beside this one's
        loss = (weights * table[0]).sum()
        output = {name: column.float() for name, column in zip(names, table, strict=True)}
        if extras:
            output["top1_agreement"] = output["top1_agreement"].bool()
        if with_gradient:
            gradients().finish(lambda chunk: compared(chunk)[1])
            output["dropped_vocab_fraction"] = gradients().dropped_vocab_fraction()
    if with_gradient:
        loss = AttachGradients.apply(loss, *trained, gradients())
    return KLOutput(loss=loss, **output)


def _compare(student_logits, teacher_logits, weights, targets, options, **arguments):
    """A chunk's values by name, and its gradient (see `DenseGradient`), by torch."""
    result = compare_chunk(student_logits, teacher_logits, weights, targets, options, **arguments)
    gradient = None if result.gradient is None else DenseGradient(result.gradient, arguments["vocabulary"])
    return vars(result), gradient


def _compare_fused(
    student_logits, teacher_logits, weights, targets, options, *, with_gradient, with_extras, vocabulary, out
):
    """`_compare`, by the fused kernels. out: see `kl_triton.compare`."""
    from opsd.kl.kernels import fused as kl_triton  # needs Triton, which comes with torch's CUDA builds only

    sharded = {}
    if isinstance(vocabulary, ShardedVocabulary):
        sharded["gather"] = lambda sums: vocabulary.concatenate(sums, kl_triton.block_count, dim=1)
    result = kl_triton.compare(student_logits, teacher_logits, weights, options, out=out, **sharded)
    values = {"token_kl": result.token_kl}
    if with_extras:
        plain = result
        if options.temperature != 1.0:
            plain = kl_triton.compare(student_logits, teacher_logits, weights, KLConfig(), **sharded)
        values |= kl_triton.extras(plain)
        if targets is not None:
            both = zip(("student", "teacher"), (student_logits, teacher_logits), plain.normalisers, strict=True)
            for name, logits, normaliser in both:
                values[f"{name}_logprob"] = vocabulary.at(logits, targets[:, None])[:, 0] - normaliser
    return values, result if with_gradient else None


def _kernels_run_on(device: torch.device) -> contextlib.AbstractContextManager:
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


@functools.cache
def _triton_is_installed() -> bool:
    return importlib.util.find_spec("triton") is not None


def _fused_kernels_serve(device: torch.device, options: KLConfig, vocab_size: int) -> bool:
    if device.type != "cuda" or not _triton_is_installed():
        return False
    from opsd.kl.kernels import fused as kl_triton

    return kl_triton.serves(options, vocab_size)


def _column_names(extras: bool, has_targets: bool) -> list[str]:
    names = ["token_kl"]
    if extras:
        names += ["student_entropy", "teacher_entropy", "top1_agreement"]
    if extras and has_targets:
        names += ["student_logprob", "teacher_logprob"]
    return names


def _check_tensors(tensors: dict[str, Tensor]) -> None:
    """Shapes, dtypes and devices of exact_kl's tensors, by argument name."""
    for role in ("student", "teacher"):
        for name in (f"{role}_hidden", f"{role}_head"):
            if tensors[name].ndim != 2:
                raise ValueError(f"{name} has shape {tuple(tensors[name].shape)}, expected two dimensions")
    tokens, student_width = tensors["student_hidden"].shape
    teacher_width = tensors["teacher_hidden"].shape[1]
    student_rows, teacher_rows = len(tensors["student_head"]), len(tensors["teacher_head"])
    expected = {
        "teacher_hidden": ((tokens, teacher_width), "as many rows as student_hidden"),
        "student_head": ((student_rows, student_width), "the width of student_hidden"),
        "teacher_head": ((teacher_rows, teacher_width), "the width of teacher_hidden"),
        "student_bias": ((student_rows,), "one number for each row of student_head"),
        "teacher_bias": ((teacher_rows,), "one number for each row of teacher_head"),
        "weights": ((tokens,), "one number for each row of student_hidden"),
        "targets": ((tokens,), "one token id for each row of student_hidden"),
    }
    for name, (shape, why) in expected.items():
        if name in tensors and tensors[name].shape != shape:
            raise ValueError(f"{name} has shape {tuple(tensors[name].shape)}, expected {shape}: {why}")
    device = tensors["student_hidden"].device
    for name, x in tensors.items():
        if x.device != device:
            raise ValueError(f"{name} is on {x.device}, expected {device}, where student_hidden is")
        if name == "targets" and (x.is_floating_point() or x.dtype == torch.bool):
            raise ValueError(f"targets has dtype {x.dtype}, expected an integer dtype")
        if name != "targets" and not x.is_floating_point():
            raise ValueError(f"{name} has dtype {x.dtype}, expected a floating-point dtype")
    if tensors["weights"].requires_grad:
        raise ValueError("weights requires a gradient, expected a constant: no gradient is formed for it")


def _check_targets(targets: Int[Tensor, " N"], vocab_size: int) -> None:
    bad = targets[(targets < 0) | (targets >= vocab_size)]
    if len(bad):
        raise ValueError(
            f"targets holds {int(bad[0])} in a row of non-zero weight, expected 0 to {vocab_size - 1}"
        )


def _vocabulary(
    vocab_size: int | None, student_head: Tensor, teacher_head: Tensor, group: dist.ProcessGroup | None
) -> tuple[Vocabulary, int, int]:
    """The vocabulary, how many of its columns this process has, and how many there are."""
    if group is not None:
        return ShardedVocabulary.of(student_head, teacher_head, vocab_size, group)
    student_rows, teacher_rows = len(student_head), len(teacher_head)
    if vocab_size is None:
        if student_rows != teacher_rows:
            raise ValueError(
                f"teacher_head has {teacher_rows} rows, expected the {student_rows} of student_head (or "
                f"a vocab_size, where the two are padded differently)"
            )
        vocab_size = student_rows
    most = min(student_rows, teacher_rows)
    if not 1 <= vocab_size <= most:
        raise ValueError(f"vocab_size is {vocab_size}, expected 1 to {most}: the rows of the shorter head")
    return WHOLE, vocab_size, vocab_size


def _checked_chunk_tokens(
    chunk_tokens: int | None, columns: int, rows: int, device: torch.device, fused: bool
) -> int:
    if chunk_tokens is None and fused:
        bytes_a_row = 8 * columns / FUSED_MEMORY
        free = _free_memory(device, enough=FUSED_ROWS * bytes_a_row)
        most = min(FUSED_ROWS, max(1, int(free / bytes_a_row)))
        return max(1, -(-rows // -(-rows // most))) if rows else 1  # chunks of equal size
    if chunk_tokens is None:
        return max(1, kl_head.CHUNK_ELEMENTS // columns)
    if chunk_tokens < 1:
        raise ValueError(f"chunk_tokens is {chunk_tokens}, expected None or at least 1")
    return min(chunk_tokens, 65535)  # a kernel's grid takes no more


def _free_memory(device: torch.device, enough: float = math.inf) -> int:
    """Bytes that torch could still give out on a GPU, or some number above `enough`."""
    free = torch.cuda.mem_get_info(device)[0]
    if free < enough:  # torch's statistics cost the host as much as a small chunk costs the GPU
        free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return free
