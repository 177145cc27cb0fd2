"""The student's gradients, formed during the forward pass, and their attachment to the autograd graph."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from opsd.kl.chunks import Tokens
from opsd.kl.divergences import Vocabulary
from opsd.kl.lm_head import LMHead
from opsd.kl.sparse_rows import SparseRowAccumulator, scaled

# Rows of the lm_head whose mean stands for the mean of all.
MEAN_ROWS = 4096


class StudentGradients:
    """The gradients of the student's hidden states, lm_head weight and bias; None for what needs none.

    The hidden states' is in their dtype where that is bf16, else in `lm_head.compute`, as the others are.
    """

    def __init__(
        self,
        lm_head: LMHead,
        trained: tuple[Tensor, Tensor, Tensor | None],
        vocabulary: Vocabulary,
        subtract_mean_row: bool,
        fused: bool,
    ) -> None:
        """trained: hidden states, weight and bias as given to `exact_kl`. subtract_mean_row: see `sparse`."""
        self.lm_head, self.vocabulary, self.fused = lm_head, vocabulary, fused
        hidden, weight, bias = (x if x is not None and x.requires_grad else None for x in trained)
        # bf16 has the range of fp32: rounding to it before a loss scale is applied loses nothing.
        dtype = torch.bfloat16 if lm_head.hidden.dtype == torch.bfloat16 else lm_head.compute
        self.hidden = None if hidden is None else hidden.new_zeros(hidden.shape, dtype=dtype)
        self.weight = None
        if weight is not None:
            self.weight = SparseRowAccumulator(weight.shape, lm_head.compute, weight.device, fused)
        self.bias = None if bias is None else torch.zeros_like(bias, dtype=lm_head.compute, requires_grad=False)
        self.mean_row = None
        if subtract_mean_row:
            self.mean_row = mean_row(lm_head.weight[: lm_head.vocab_size], lm_head.compute, vocabulary)
        self._tokens = self._kept_entries = 0

    def set_hidden(self, tokens: Tokens, part: Float[Tensor, "N F"], product: Float[Tensor, "N H"]) -> None:
        """Store the gradient of some tokens' hidden states: `product` = part @ (the weight's rows of `part`)."""
        if self.hidden is None:
            return
        if self.mean_row is not None:
            product.addr_(part.sum(1, dtype=product.dtype), self.mean_row, alpha=-1.0)
        self.hidden[tokens] = self.vocabulary.all_reduce_sum(product).to(self.hidden.dtype)

    def count(self, tokens: int, entries: int) -> None:
        """Note that the gradient of some tokens was formed over this many vocab entries."""
        self._tokens += tokens
        self._kept_entries += tokens * entries

    def dropped_vocab_fraction(self) -> float:
        if not self._tokens:
            return 0.0
        return 1.0 - self._kept_entries / (self._tokens * self.lm_head.vocab_size)


class PrecomputedGradient(torch.autograd.Function):
    """Gives a value whose gradients are already known its node in the autograd graph."""

    @staticmethod
    def forward(
        ctx: Any,
        value: Float[Tensor, ""],
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        gradients: StudentGradients,
    ) -> Float[Tensor, ""]:
        ctx.gradients = gradients
        ctx.dtypes = [None if x is None else x.dtype for x in (hidden, weight, bias)]
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *upstreams: Any) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # create_graph=True; the result would silently be a constant
            raise RuntimeError(
                "exact_kl cannot be differentiated twice: its gradient was formed in the forward pass"
            )
        # Multiplied before rounding, so that a loss scale protects fp16 gradients.
        (upstream,) = upstreams
        hidden_dtype, weight_dtype, bias_dtype = ctx.dtypes
        gradients: StudentGradients = ctx.gradients
        hidden, weight, bias = gradients.hidden, gradients.weight, gradients.bias
        return (
            None,
            None if hidden is None else scaled(hidden, upstream, hidden_dtype, gradients.fused),
            None if weight is None else weight.scaled(upstream, weight_dtype),
            None if bias is None else scaled(bias, upstream, bias_dtype),
            None,
        )


def mean_row(weight: Float[Tensor, "V H"], compute: torch.dtype, vocabulary: Vocabulary) -> Float[Tensor, " H"]:
    """Approximately the mean row of the whole lm_head: that of some thousand rows (any vector is correct)."""
    sample = weight[:: max(1, len(weight) // MEAN_ROWS)].to(compute)
    total = vocabulary.all_reduce_sum(sample.sum(0))
    count = torch.tensor(float(len(sample)), dtype=compute, device=weight.device)
    return total / vocabulary.all_reduce_sum(count)
