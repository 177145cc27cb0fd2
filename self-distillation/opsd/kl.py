"""The exact KL of Phase 2 (section 2.2 of arXiv:2604.12002), from hidden states, without the [T, V] logits.

    loss = sum_t weights[t] * KL( student(. | x, y_<t) || teacher(. | x, y, P_r, y_<t) )

The logits of one chunk of rows exist at a time. The chunk's gradient is formed right away and folded into the
gradients of the hidden states and of the head, so nothing of the chunk outlives it; `backward` only
multiplies by the incoming gradient.

On CUDA a chunk is compared by fused kernels (`opsd.kl_triton`), elsewhere and for the options they do not know
by torch (`opsd.divergences`). `opsd.kl_columns` leaves columns without gradient out of the way back,
`opsd.kl_sharded` joins processes that each hold a part of the vocabulary.
"""

# ruff: noqa: F722 - the strings in annotations are jaxtyping shapes

import contextlib
import functools
import importlib.util
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float, Int
from torch import Tensor

from opsd.divergences import WHOLE, KLOptions, Vocabulary, compare_chunk
from opsd.kl_columns import (
    MAX_DROPPED,
    MAX_SHARE,
    PATIENCE,
    ColumnSums,
    NumbersOnTheirWay,
    flag_columns,
    mean_row,
)
from opsd.kl_products import add_product, multiplied_as_is, product
from opsd.kl_sharded import ShardedVocabulary

__all__ = ["KLOptions", "KLOutput", "exact_kl"]

# Budget, in elements, for one chunk's logits of one model (128 MiB in fp32) outside of the fused kernels; the
# working set is about eight buffers of this size, twelve for jsd. It also bounds the pieces in which a head
# is upcast and its gradient is accumulated.
CHUNK_ELEMENTS = 2**25
# With the fused kernels: most rows per chunk (products of more rows are no faster), and the part of the free
# memory that both models' logits may take.
FUSED_ROWS = 1024
FUSED_MEMORY = 0.5
# Rows whose bf16 gradient of all columns is collected before the two products back: each pass over the head's
# gradient in fp32 costs as much as a tenth of the product.
DENSE_ROWS = 2048

# A choice of rows; a slice where possible, which copies nothing.
Rows = slice | Int[Tensor, " N"]


@dataclass(frozen=True)
class KLOutput:
    """`loss` is differentiable, all else is detached; nats throughout; T rows as in the inputs.

    Rows of weight zero are not computed: they hold 0 (False in `agreement`). Entropies and log-probabilities
    are over the whole vocabulary at temperature 1, whatever the options; they are fp32, as is `token_kl`.
    None: not asked for. `agreement`: both models' likeliest token is the same. `dropped_columns`: the share of
    the vocabulary that the gradient left out, on average over rows (0 where `grad_eps` is); None without a
    gradient.
    """

    loss: Float[Tensor, ""]
    token_kl: Float[Tensor, " T"]
    student_entropy: Float[Tensor, " T"] | None = None
    teacher_entropy: Float[Tensor, " T"] | None = None
    student_logprob: Float[Tensor, " T"] | None = None
    teacher_logprob: Float[Tensor, " T"] | None = None
    agreement: Bool[Tensor, " T"] | None = None
    dropped_columns: float | None = None


def exact_kl(
    student_hidden: Float[Tensor, "T Hs"],
    student_head: Float[Tensor, "Vs Hs"],
    teacher_hidden: Float[Tensor, "T Ht"],
    teacher_head: Float[Tensor, "Vt Ht"],
    weights: Float[Tensor, " T"],
    *,
    options: KLOptions = KLOptions(),  # noqa: B008 - frozen
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
    chunk_tokens: rows per chunk; None takes as many as fit CHUNK_ELEMENTS logits or, with the fused kernels,
        the free memory (with `group`, FUSED_ROWS: it must be the same in all processes). The results do not
        depend on it beyond rounding, memory does.
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
    student = _Head(student_hidden.detach(), student_head.detach(), student_bias, columns, compute)
    teacher = _Head(teacher_hidden.detach(), teacher_head.detach(), teacher_bias, columns, compute)
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
    with torch.no_grad(), torch.autocast(weights.device.type, enabled=False), _kernels_run_on(weights.device):
        gradients = _Gradients(student, trained, grad_eps, vocabulary, len(rows)) if with_gradient else None
        for start in range(0, len(rows), chunk_tokens):
            chunk: Rows = slice(start, min(start + chunk_tokens, len(rows)))
            if len(rows) < len(weights):
                chunk = rows[chunk]
            compare = _compare_fused if fused else _compare
            values, gradient = compare(
                student.logits(chunk),
                teacher.logits(chunk),
                weights[chunk],
                None if targets is None else targets[chunk].long(),
                options,
                with_gradient=with_gradient,
                with_extras=extras,
                vocabulary=vocabulary,
            )
            table[:, chunk] = torch.stack([values[name].to(compute) for name in names])
            if with_gradient:
                gradients.add(chunk, gradient)
            del values, gradient  # or the next chunk's logits would be made beside this one's gradient
        if with_gradient:
            gradients.finish()
        loss = (weights * table[0]).sum()
        output = {name: column.float() for name, column in zip(names, table, strict=True)}
        if extras:
            output["agreement"] = output["agreement"].bool()
    if with_gradient:
        output["dropped_columns"] = gradients.dropped_columns()
        loss = _AttachGradients.apply(loss, *trained, gradients)
    return KLOutput(loss=loss, **output)


def _compare(student_logits, teacher_logits, weights, targets, options, **arguments):
    """A chunk's values by name, and its gradient (see `_DenseGradient`), by torch."""
    result = compare_chunk(student_logits, teacher_logits, weights, targets, options, **arguments)
    gradient = None if result.gradient is None else _DenseGradient(result.gradient, arguments["vocabulary"])
    return vars(result), gradient


def _compare_fused(
    student_logits, teacher_logits, weights, targets, options, *, with_gradient, with_extras, vocabulary
):
    """`_compare`, by the fused kernels."""
    from opsd import kl_triton  # needs Triton, which comes with torch's CUDA builds only

    sharded = {}
    if isinstance(vocabulary, ShardedVocabulary):
        sharded["gather"] = lambda sums: vocabulary.concatenate(sums, lambda size: -(-size // kl_triton.BLOCK))
    result = kl_triton.compare(student_logits, teacher_logits, weights, options, **sharded)
    values = {"token_kl": result.token_kl}
    if with_extras:
        plain = result
        if options.temperature != 1.0:
            plain = kl_triton.compare(student_logits, teacher_logits, weights, KLOptions(), **sharded)
        values |= kl_triton.extras(plain)
        if targets is not None:
            for name, logits, normaliser in (
                ("student", student_logits, plain.rows[kl_triton.NORMALISER_X]),
                ("teacher", teacher_logits, plain.rows[kl_triton.NORMALISER_Y]),
            ):
                values[f"{name}_logprob"] = vocabulary.at(logits, targets[:, None])[:, 0] - normaliser
    return values, result if with_gradient else None


def _kernels_run_on(device: torch.device) -> contextlib.AbstractContextManager:
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


@functools.cache
def _triton_is_installed() -> bool:
    return importlib.util.find_spec("triton") is not None


def _fused_kernels_serve(device: torch.device, options: KLOptions, vocab_size: int) -> bool:
    if device.type != "cuda" or not _triton_is_installed():
        return False
    from opsd import kl_triton

    return kl_triton.serves(options, vocab_size)


@dataclass(frozen=True)
class _DenseGradient:
    """A chunk's gradient as a matrix, behind the methods of `kl_triton.FusedChunk`."""

    values: Float[Tensor, "N V"]
    vocabulary: Vocabulary
    can_flag = True

    def flag(self, eps: float, max_dropped: float) -> Bool[Tensor, " V"]:
        return flag_columns(self.values, eps, max_dropped, self.vocabulary.total)

    def at(self, columns: Int[Tensor, " F"], dtype: torch.dtype) -> Float[Tensor, "N F"]:
        return self.values[:, columns].to(dtype)

    def dense(self, out: Float[Tensor, "N V"] | None = None) -> Float[Tensor, "N V"]:
        return self.values if out is None else out.copy_(self.values)


@dataclass(frozen=True)
class _Head:
    """One model's last product: logits of chosen rows, and the way back from their gradient."""

    hidden: Float[Tensor, "T H"]
    weight: Float[Tensor, "Vp H"]
    bias: Float[Tensor, " Vp"] | None
    vocab_size: int
    compute: torch.dtype

    def logits(self, rows: Rows) -> Float[Tensor, "N V"]:
        hidden = self.hidden[rows]
        if self.weight.dtype == self.compute or multiplied_as_is(hidden, self.weight):
            logits = product(hidden, self.weight[: self.vocab_size].T, self.compute)
        else:
            logits = hidden.new_empty(len(hidden), self.vocab_size, dtype=self.compute)
            for part in self.vocab_parts():
                logits[:, part] = product(hidden, self.weight[part].T, self.compute)
        return logits if self.bias is None else logits.add_(self.bias.detach()[: self.vocab_size])

    def gradient_dtype(self) -> torch.dtype:
        """In which a logits' gradient enters its two products."""
        # Not for fp16: most of a token's probabilities, times its weight, lie below its range.
        is_bf16 = self.hidden.is_cuda and self.hidden.dtype == self.weight.dtype == torch.bfloat16
        return torch.bfloat16 if is_bf16 else self.compute

    def vocab_parts(self) -> Iterator[slice]:
        size = max(1, CHUNK_ELEMENTS // max(1, self.weight.shape[1]))
        for start in range(0, self.vocab_size, size):
            yield slice(start, min(start + size, self.vocab_size))


class _Gradients:
    """The student's gradients, chunk by chunk. Memory: hidden states as they are, the head as ColumnSums."""

    def __init__(
        self,
        head: _Head,
        trained: tuple[Tensor, Tensor, Tensor | None],
        grad_eps: float,
        vocabulary: Vocabulary,
        most_rows: int,
    ) -> None:
        self.head, self.grad_eps, self.vocabulary = head, grad_eps, vocabulary
        hidden, weight, bias = (x if x is not None and x.requires_grad else None for x in trained)
        # bf16 has fp32's range: nothing is lost by rounding before a loss scale is applied.
        dtype = torch.bfloat16 if head.hidden.dtype == torch.bfloat16 else head.compute
        self.hidden = None if hidden is None else torch.zeros_like(head.hidden, dtype=dtype)
        self.weight = None if weight is None else ColumnSums(weight.shape, head.compute, weight.device)
        self.bias = None if bias is None else torch.zeros_like(bias, dtype=head.compute, requires_grad=False)
        self.mean_row = mean_row(head.weight[: head.vocab_size], head.compute, vocabulary) if grad_eps else None
        self.wait = 0  # chunks that take all columns without looking
        self.rows = self.kept = 0
        self.expected = head.vocab_size // 2048 * 128 + 128  # flagged columns, at first about a sixteenth
        self.counting = torch.arange(1, head.vocab_size + 1, device=head.hidden.device)
        self.row_numbers = torch.arange(len(head.hidden), device=head.hidden.device)
        # Rows whose gradient of all columns waits for its products, and that gradient.
        self.waiting: list[Int[Tensor, " N"]] = []
        self.collected: Float[Tensor, "N V"] | None = None
        self.most_rows = min(DENSE_ROWS, most_rows)

    def add(self, rows: Rows, gradient) -> None:
        """Fold in the gradient of the rows' logits: a `_DenseGradient` or a `kl_triton.FusedChunk`."""
        if self.grad_eps and not self.wait and not gradient.can_flag:
            gradient = _DenseGradient(gradient.dense(), self.vocabulary)
        hidden = self.head.hidden[rows]
        flagged = self._flagged(gradient)
        self.rows += len(hidden)
        self.kept += len(hidden) * (self.head.vocab_size if flagged is None else len(flagged[0]))
        if flagged is not None:
            self._add_columns(rows, hidden, *flagged)
        elif self.head.gradient_dtype() == torch.bfloat16:
            self._collect(self.row_numbers[rows], gradient)
        else:
            self._add_all(rows, gradient.dense())

    def finish(self) -> None:
        """To be called after the last rows."""
        if self.waiting:
            rows = torch.cat(self.waiting)
            self._add_all(rows, self.collected[: len(rows)])
        self.waiting, self.collected = [], None

    def _collect(self, rows: Int[Tensor, " N"], gradient) -> None:
        count = sum(map(len, self.waiting))
        if self.waiting and count + len(rows) > len(self.collected):
            self._add_all(torch.cat(self.waiting), self.collected[:count])
            self.waiting, count = [], 0
        if self.collected is None:
            size = max(self.most_rows, len(rows))
            self.collected = rows.new_empty(size, self.head.vocab_size, dtype=torch.bfloat16)
        gradient.dense(out=self.collected[count : count + len(rows)])
        self.waiting.append(rows)

    def _add_columns(
        self,
        rows: Rows,
        hidden: Float[Tensor, "N H"],
        columns: Int[Tensor, " F"],
        part: Float[Tensor, "N F"],
    ) -> None:
        compute = self.head.compute
        if self.hidden is not None:
            self._add_to_hidden(rows, part, product(part, self.head.weight[columns], compute))
        if self.weight is not None:
            self.weight.add(columns, product(part.T, hidden, compute))
        if self.bias is not None:
            self.bias[columns] += part.sum(0, dtype=compute)

    def _add_all(self, rows: Rows, part: Float[Tensor, "N V"]) -> None:
        head, hidden = self.head, self.head.hidden[rows]
        as_is = multiplied_as_is(part, head.weight)
        pieces = [slice(0, head.vocab_size)] if as_is else list(head.vocab_parts())
        if self.hidden is not None:
            total = torch.zeros_like(hidden, dtype=head.compute)
            for piece in pieces:
                add_product(total, part[:, piece], head.weight[piece])
            self._add_to_hidden(rows, part, total)
        if self.weight is not None and self.weight.is_empty() and pieces == [slice(0, len(head.weight))]:
            self.weight.start(product(part.T, hidden, head.compute))
        elif self.weight is not None:
            whole = self.weight.everything()
            for piece in pieces:
                add_product(whole[piece], part[:, piece].T, hidden)
        if self.bias is not None:
            self.bias[: head.vocab_size] += part.sum(0, dtype=head.compute)

    def _add_to_hidden(self, rows: Rows, part: Float[Tensor, "N F"], product: Float[Tensor, "N H"]) -> None:
        if self.mean_row is not None:
            product.addr_(part.sum(1, dtype=product.dtype), self.mean_row, alpha=-1.0)
        self.hidden[rows] = self.vocabulary.total(product).to(self.hidden.dtype)

    def _flagged(self, gradient) -> tuple[Int[Tensor, " F"], Float[Tensor, "N F"]] | None:
        """The columns that enter, and the gradient there; None: all columns enter."""
        if not self.grad_eps or self.wait:
            self.wait -= bool(self.wait)
            return None
        dtype = self.head.gradient_dtype()
        ranks = gradient.flag(self.grad_eps, MAX_DROPPED).cumsum(0)
        everywhere = self.vocabulary.total(ranks[-1].clone())  # the processes of a group decide alike
        numbers = [everywhere, ranks[-1]] + ([] if self.weight is None else [self.weight.used])
        numbers = NumbersOnTheirWay(torch.stack(numbers))
        # Meanwhile the GPU goes on: with as many columns as there may be, the last one where there are fewer.
        columns = torch.searchsorted(ranks, self.counting).clamp_(max=len(ranks) - 1)
        part = gradient.at(columns[: self.expected], dtype)
        everywhere, count, *used = numbers.read()
        if everywhere > MAX_SHARE * self.vocabulary.size(ranks):
            self.wait = PATIENCE
            return None
        # A multiple of what a product reads at once: rows that are not aligned are multiplied slowly.
        self.expected = (count + count // 4) // 128 * 128 + 128
        if count > part.shape[1]:
            part = gradient.at(columns[: self.expected], dtype)
        if self.weight is not None:
            self.weight.make_room(used[0] + count)
        return columns[:count], part[:, :count]

    def dropped_columns(self) -> float:
        return 1.0 - self.kept / (self.rows * self.head.vocab_size) if self.rows else 0.0


class _AttachGradients(torch.autograd.Function):
    """Gives a value whose gradients are known already its place in the graph."""

    @staticmethod
    def forward(ctx, value, hidden, weight, bias, gradients):
        ctx.gradients = gradients
        ctx.dtypes = [None if x is None else x.dtype for x in (hidden, weight, bias)]
        return value.clone()

    @staticmethod
    def backward(ctx, upstream):
        if torch.is_grad_enabled():  # create_graph=True; going on would give a silently constant gradient
            raise RuntimeError(
                "exact_kl cannot be differentiated twice: its gradient was formed in the forward pass"
            )
        # Scaled before it is rounded, so that a loss scale does its work for fp16.
        hidden_dtype, weight_dtype, bias_dtype = ctx.dtypes
        hidden, weight, bias = ctx.gradients.hidden, ctx.gradients.weight, ctx.gradients.bias
        return (
            None,
            None if hidden is None else _scaled(hidden, upstream, hidden_dtype),
            None if weight is None else weight.scaled(upstream, weight_dtype),
            None if bias is None else _scaled(bias, upstream, bias_dtype),
            None,
        )


def _scaled(x: Tensor, factor: Float[Tensor, ""], dtype: torch.dtype) -> Tensor:
    return torch.mul(x, factor, out=torch.empty_like(x, dtype=dtype))


def _column_names(extras: bool, has_targets: bool) -> list[str]:
    names = ["token_kl"]
    if extras:
        names += ["student_entropy", "teacher_entropy", "agreement"]
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
        most = min(FUSED_ROWS, max(1, int(FUSED_MEMORY * _free_memory(device) / (8 * columns))))
        return max(1, -(-rows // -(-rows // most))) if rows else 1  # chunks of equal size
    if chunk_tokens is None:
        return max(1, CHUNK_ELEMENTS // columns)
    if chunk_tokens < 1:
        raise ValueError(f"chunk_tokens is {chunk_tokens}, expected None or at least 1")
    return min(chunk_tokens, 65535)  # a kernel's grid takes no more


def _free_memory(device: torch.device) -> int:
    """Bytes that torch could still give out on a GPU."""
    cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + cached
