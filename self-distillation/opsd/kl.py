"""The exact KL of Phase 2 (section 2.2 of arXiv:2604.12002), from hidden states, without the [T, V] logits.

    loss = sum_t weights[t] * KL( student(. | x, y_<t) || teacher(. | x, y, P_r, y_<t) )

The logits of one chunk of rows exist at a time. The chunk's gradient is formed right away and folded into the
gradients of the hidden states and of the head, so nothing of the chunk outlives it; `backward` only
multiplies by the incoming gradient.
"""

# ruff: noqa: F722 - the strings in annotations are jaxtyping shapes

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from opsd.divergences import KLOptions, compare_chunk

__all__ = ["KLOptions", "KLOutput", "exact_kl"]

# Budget, in elements, for one chunk's logits of one model (128 MiB in fp32); the working set is about eight
# buffers of this size, twelve for jsd. It also bounds the pieces in which a head is upcast and its gradient
# is accumulated.
CHUNK_ELEMENTS = 2**25


@dataclass(frozen=True)
class KLOutput:
    """`loss` is differentiable, all else is detached; nats throughout; T rows as in the inputs.

    Rows of weight zero are not computed: they hold 0 (False in `agreement`). Entropies and log-probabilities
    are over the whole vocabulary at temperature 1, whatever the options; they are fp32, as is `token_kl`.
    None: not asked for. `agreement`: both models' likeliest token is the same.
    """

    loss: Float[Tensor, ""]
    token_kl: Float[Tensor, " T"]
    student_entropy: Float[Tensor, " T"] | None = None
    teacher_entropy: Float[Tensor, " T"] | None = None
    student_logprob: Float[Tensor, " T"] | None = None
    teacher_logprob: Float[Tensor, " T"] | None = None
    agreement: Bool[Tensor, " T"] | None = None


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
) -> KLOutput:
    """sum_t weights[t] * divergence_t between student and teacher, over the whole vocabulary V.

    student_hidden, teacher_hidden: what feeds each model's head, row t of both predicting the same token.
    student_head, teacher_head: logits = hidden @ head.T (+ bias); the two models may differ in H and dtype.
    weights: a constant. A row of weight zero contributes exactly nothing, whatever its hidden states and
        target hold.
    targets: token ids whose log-probability under both models is wanted.
    vocab_size: V; head rows and biases beyond it are padding. None: all rows, which must then be as many in
        both.
    chunk_tokens: rows per chunk; None takes as many as fit CHUNK_ELEMENTS logits. The results do not depend
        on it beyond rounding, memory does.
    extras: False leaves out the entropies, the log-probabilities and the agreement.

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
    _check_tensors({name: x for name, x in tensors.items() if x is not None})
    vocab_size = _checked_vocab_size(vocab_size, len(student_head), len(teacher_head))
    chunk_tokens = _checked_chunk_tokens(chunk_tokens, vocab_size)

    is_double = any(
        x is not None and x.dtype == torch.float64 for name, x in tensors.items() if name != "weights"
    )
    compute = torch.float64 if is_double else torch.float32
    student = _Head(student_hidden.detach(), student_head.detach(), student_bias, vocab_size, compute)
    teacher = _Head(teacher_hidden.detach(), teacher_head.detach(), teacher_bias, vocab_size, compute)
    weights = weights.to(compute)
    rows = weights.nonzero()[:, 0]
    if targets is not None:
        _check_targets(targets[rows], vocab_size)

    trained = (student_hidden, student_head, student_bias)
    gradients = [
        torch.zeros_like(x, dtype=compute, requires_grad=False)
        if x is not None and x.requires_grad and torch.is_grad_enabled()
        else None
        for x in trained
    ]
    with_gradient = any(x is not None for x in gradients)
    columns = {name: weights.new_zeros(len(weights)) for name in _column_names(extras, targets is not None)}
    with torch.no_grad(), torch.autocast(weights.device.type, enabled=False):
        for start in range(0, len(rows), chunk_tokens):
            chunk = rows[start : start + chunk_tokens]
            result = compare_chunk(
                student.logits(chunk),
                teacher.logits(chunk),
                weights[chunk],
                None if targets is None else targets[chunk].long(),
                options,
                with_gradient=with_gradient,
                with_extras=extras,
            )
            for name, column in columns.items():
                column[chunk] = getattr(result, name).to(compute)
            if with_gradient:
                student.add_gradients(chunk, result.gradient, *gradients)
            del result  # or the next chunk's logits would be made beside this one's gradient
        loss = (weights * columns["token_kl"]).sum()
        columns = {name: column.float() for name, column in columns.items()}
        if extras:
            columns["agreement"] = columns["agreement"].bool()
    if with_gradient:
        loss = _AttachGradients.apply(loss, *trained, *gradients)
    return KLOutput(loss=loss, **columns)


@dataclass(frozen=True)
class _Head:
    """One model's last product: logits of chosen rows, and the way back from their gradient."""

    hidden: Float[Tensor, "T H"]
    weight: Float[Tensor, "Vp H"]
    bias: Float[Tensor, " Vp"] | None
    vocab_size: int
    compute: torch.dtype

    def logits(self, rows: Int[Tensor, " N"]) -> Float[Tensor, "N V"]:
        hidden = self.hidden[rows]
        if self.weight.dtype == self.compute or _multiplied_as_is(hidden, self.weight):
            logits = _product(hidden, self.weight[: self.vocab_size].T, self.compute)
        else:
            logits = hidden.new_empty(len(rows), self.vocab_size, dtype=self.compute)
            for part in self._vocab_parts():
                logits[:, part] = _product(hidden, self.weight[part].T, self.compute)
        return logits if self.bias is None else logits.add_(self.bias.detach()[: self.vocab_size])

    def add_gradients(
        self,
        rows: Int[Tensor, " N"],
        logits_gradient: Float[Tensor, "N V"],
        hidden_gradient: Float[Tensor, "T H"] | None,
        weight_gradient: Float[Tensor, "Vp H"] | None,
        bias_gradient: Float[Tensor, " Vp"] | None,
    ) -> None:
        """Write the rows' part of `hidden_gradient` and add to the other two, where they are wanted."""
        if bias_gradient is not None:
            bias_gradient[: self.vocab_size] += logits_gradient.sum(0)
        hidden = self.hidden[rows]
        if hidden.is_cuda and hidden.dtype == self.weight.dtype == torch.bfloat16:
            # Not for fp16: most of a token's probabilities, times its weight, lie below its range.
            logits_gradient = logits_gradient.bfloat16()
        for part in self._vocab_parts():
            part_gradient = logits_gradient[:, part]
            if hidden_gradient is not None:
                hidden_gradient[rows] += _product(part_gradient, self.weight[part], self.compute)
            if weight_gradient is not None:
                weight_gradient[part] += _product(part_gradient.T, hidden, self.compute)

    def _vocab_parts(self) -> Iterator[slice]:
        size = max(1, CHUNK_ELEMENTS // max(1, self.weight.shape[1]))
        for start in range(0, self.vocab_size, size):
            yield slice(start, min(start + size, self.vocab_size))


class _AttachGradients(torch.autograd.Function):
    """Gives a value whose gradients are known already its place in the graph."""

    @staticmethod
    def forward(ctx, value, hidden, weight, bias, hidden_gradient, weight_gradient, bias_gradient):
        ctx.save_for_backward(hidden_gradient, weight_gradient, bias_gradient)
        ctx.dtypes = [None if x is None else x.dtype for x in (hidden, weight, bias)]
        return value.clone()

    @staticmethod
    def backward(ctx, upstream):
        if torch.is_grad_enabled():  # create_graph=True; going on would give a silently constant gradient
            raise RuntimeError(
                "exact_kl cannot be differentiated twice: its gradient was formed in the forward pass"
            )
        scaled = [
            # Scaled before it is rounded, so that a loss scale does its work for fp16.
            None if x is None else torch.mul(x, upstream, out=torch.empty_like(x, dtype=dtype))
            for x, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        ]
        return None, *scaled, None, None, None


def _multiplied_as_is(a: Tensor, b: Tensor) -> bool:
    return a.is_cuda and a.dtype == b.dtype and a.dtype in (torch.bfloat16, torch.float16)


def _product(a: Float[Tensor, "M K"], b: Float[Tensor, "K N"], compute: torch.dtype) -> Float[Tensor, "M N"]:
    """a @ b in `compute`, never rounded to a narrower dtype."""
    if compute == torch.float32 and _multiplied_as_is(a, b):
        return torch.mm(a, b, out_dtype=torch.float32)
    return torch.mm(a.to(compute), b.to(compute))


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


def _checked_vocab_size(vocab_size: int | None, student_rows: int, teacher_rows: int) -> int:
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
    return vocab_size


def _checked_chunk_tokens(chunk_tokens: int | None, vocab_size: int) -> int:
    if chunk_tokens is None:
        return max(1, CHUNK_ELEMENTS // vocab_size)
    if chunk_tokens < 1:
        raise ValueError(f"chunk_tokens is {chunk_tokens}, expected None or at least 1")
    return chunk_tokens
