"""The student's gradients of the exact KL, collected chunk by chunk during the forward pass."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from opsd.kl.divergences import WHOLE, Vocabulary
from opsd.kl.lm_head import Head, Rows, row_count
from opsd.kl.matmul import add_product, multiplied_as_is, product
from opsd.kl.sparse import (
    MAX_DROPPED,
    MAX_SHARE,
    PATIENCE,
    ColumnSums,
    NumbersOnTheirWay,
    flag_columns,
    mean_row,
    scaled,
)

# Rows whose bf16 gradient of all columns is collected before the two products back: each pass over the head's
# gradient in fp32 costs as much as a tenth of the product. Where there are no more than WHOLE_ROWS, all of them:
# the head's gradient is then one product, which leaves it in bf16 and not in fp32, and no more memory is needed.
DENSE_ROWS = 4096
WHOLE_ROWS = 8192


@dataclass(frozen=True)
class DenseGradient:
    """A chunk's gradient as a matrix, behind the methods of `kl_triton.FusedChunk`."""

    values: Float[Tensor, "N V"]
    vocabulary: Vocabulary
    can_flag = True

    def flag(self, eps: float, max_dropped: float) -> Bool[Tensor, " V"]:
        return flag_columns(self.values, eps, max_dropped, self.vocabulary.total)

    def at(self, columns: Int[Tensor, " F"], dtype: torch.dtype) -> Float[Tensor, "N F"]:
        vocab = self.values.shape[1]
        return self.values[:, columns.clamp(max=vocab - 1)].to(dtype).masked_fill_(columns >= vocab, 0.0)

    def dense(self, out: Float[Tensor, "N V"] | None = None) -> Float[Tensor, "N V"]:
        return self.values if out is None else out.copy_(self.values)


@dataclass(frozen=True)
class _Flagged:
    """A chunk's gradient at the columns that were flagged, or at the first E of them."""

    rows: Rows
    columns: Int[Tensor, " V"]  # the flagged columns, then V
    part: Float[Tensor, "N E"]
    # How many are flagged everywhere; how many processes have flagged more than E; how many of this process's
    # columns are; rows of the head's table in use before.
    numbers: NumbersOnTheirWay


class Gradients:
    """Gradients of the hidden states, the head and the bias, where `trained` (in this order) requires them.

    `add` every chunk, then `finish`. Memory: hidden states as they are, the head as ColumnSums.

    How many columns a chunk has flagged is known to the GPU alone. Nobody waits for that number: with room for
    as many columns as the chunks before had (and a quarter more), the gradient is taken from the logits at once;
    the products over it are launched when the next chunk is added, behind that chunk's logits, by when the
    number has arrived. A chunk that had more columns is computed again in the end.
    """

    def __init__(
        self,
        head: Head,
        trained: tuple[Tensor, Tensor, Tensor | None],
        grad_eps: float,
        vocabulary: Vocabulary,
        most_rows: int,
        fused: bool,
    ) -> None:
        self.head, self.grad_eps, self.vocabulary, self.fused = head, grad_eps, vocabulary, fused
        hidden, weight, bias = (x if x is not None and x.requires_grad else None for x in trained)
        # bf16 has fp32's range: nothing is lost by rounding before a loss scale is applied.
        dtype = torch.bfloat16 if head.hidden.dtype == torch.bfloat16 else head.compute
        self.hidden = None if hidden is None else hidden.new_zeros(hidden.shape, dtype=dtype)
        self.weight = None if weight is None else ColumnSums(weight.shape, head.compute, weight.device, fused)
        self.bias = None if bias is None else torch.zeros_like(bias, dtype=head.compute, requires_grad=False)
        self.mean_row = mean_row(head.weight[: head.vocab_size], head.compute, vocabulary) if grad_eps else None
        self.wait = 0  # chunks that take all columns without looking
        self.rows = self.kept = 0
        # Room for flagged columns: at first for about a sixteenth of all, which is a guess.
        self.room, self.room_is_a_guess = _aligned(head.vocab_size // 16), True
        self.launched: _Flagged | None = None
        self.again: list[Rows] = []
        self.counting = torch.arange(1, head.vocab_size + 1, device=head.hidden.device)
        self.row_numbers = torch.arange(len(head.hidden), device=head.hidden.device)
        # Rows whose gradient of all columns waits for its products, and that gradient.
        self.waiting: list[Rows] = []
        self.collected: Float[Tensor, "N V"] | None = None
        self.most_rows = most_rows if most_rows <= WHOLE_ROWS else DENSE_ROWS

    def add(self, rows: Rows, gradient, at_once: bool = False) -> None:
        """Fold in the gradient of the rows' logits: a `DenseGradient` or a `kl_triton.FusedChunk`.

        at_once: whatever it takes, also waiting for the GPU.
        """
        self._settle()
        if self._takes_all_columns:
            self.wait -= bool(self.wait)
            self._add_all_columns(rows, gradient)
            return
        if not gradient.can_flag:
            gradient = DenseGradient(gradient.dense(), self.vocabulary)
        self.launched = self._flag(rows, gradient)
        if at_once or self.room_is_a_guess:
            self._settle(gradient)

    def finish(self, gradient_of: Callable[[Rows], object]) -> None:
        """To be called after the last rows. gradient_of: computes a chunk's gradient again."""
        self._settle()
        for rows in self.again:
            self.add(rows, gradient_of(rows), at_once=True)
        self.again = []
        self._add_waiting(last=True)
        self.collected = None

    def dropped_vocab_fraction(self) -> float:
        return 1.0 - self.kept / (self.rows * self.head.vocab_size) if self.rows else 0.0

    def _flag(self, rows: Rows, gradient) -> _Flagged:
        ranks = gradient.flag(self.grad_eps, MAX_DROPPED).cumsum(0)
        count = ranks[-1]
        # The processes of a group decide alike.
        everywhere = self.vocabulary.total(torch.stack([count, (count > self.room).long()]))
        mine = [count] if self.weight is None else [count, self.weight.used]
        numbers = NumbersOnTheirWay(torch.cat([everywhere, torch.stack(mine)]))
        columns = torch.searchsorted(ranks, self.counting)
        part = gradient.at(columns[: self.room], self.head.gradient_dtype())
        return _Flagged(rows, columns, part, numbers)

    def _settle(self, gradient=None) -> None:
        """Fold in the columns that were flagged. gradient: of their rows, where it still exists."""
        if self.launched is None:
            return
        flagged, self.launched = self.launched, None
        everywhere, too_many, count, *used = flagged.numbers.read()
        if everywhere > MAX_SHARE * self.vocabulary.size(flagged.columns):
            self.wait, self.room_is_a_guess = PATIENCE, True
            if gradient is None:
                self.again.append(flagged.rows)
            else:
                self._add_all_columns(flagged.rows, gradient)
            return
        part, room = flagged.part, flagged.part.shape[1]
        wanted = _aligned(count + count // 4)
        self.room = wanted if self.room_is_a_guess else max(self.room, wanted)
        self.room_is_a_guess = False
        if too_many and gradient is None:
            self.again.append(flagged.rows)
            return
        columns = flagged.columns[: _aligned(count)]
        if count > room:
            part = gradient.at(columns, self.head.gradient_dtype())
        if self.weight is not None:
            self.weight.make_room(used[0] + count)
        self._add_columns(flagged.rows, columns, count, part[:, : len(columns)])

    def _add_columns(self, rows: Rows, columns: Int[Tensor, " F"], count: int, part: Float[Tensor, "N F"]) -> None:
        """Of the columns, `count` are some; the others, V, have no gradient."""
        compute, hidden = self.head.compute, self.head.hidden[rows]
        self._count(len(hidden), count)
        if self.hidden is not None:
            weight = self.head.weight[columns.clamp(max=self.head.vocab_size - 1)]
            self._add_to_hidden(rows, part, product(part, weight, compute))
        if self.weight is not None:
            self.weight.add(columns[:count], product(part.T, hidden, compute)[:count])
        if self.bias is not None:
            self.bias[columns[:count]] += part.sum(0, dtype=compute)[:count]

    def _add_all_columns(self, rows: Rows, gradient) -> None:
        self._count(row_count(rows), self.head.vocab_size)
        if self.head.gradient_dtype() == torch.bfloat16:
            self._collect(rows, gradient)
        else:
            self._add_products(rows, gradient.dense())

    def place_for(self, count: int) -> Float[Tensor, "N V"] | None:
        """Where the gradient of the next `count` rows' logits may be left before they are added; None where its
        columns may be flagged, or are not wanted in bf16."""
        if self.head.gradient_dtype() == torch.bfloat16 and self._takes_all_columns:
            return self._place(count)
        return None

    @property
    def _takes_all_columns(self) -> bool:
        """The next chunk, without looking."""
        return not self.grad_eps or self.wait > 0

    @property
    def _filled(self) -> int:
        """Rows of `collected` that wait."""
        return sum(map(row_count, self.waiting))

    def _place(self, count: int) -> Float[Tensor, "N V"]:
        """Of the next rows among the collected."""
        if self.waiting and self._filled + count > len(self.collected):
            self._add_waiting()
        if self.collected is None:
            size = max(self.most_rows, count)
            self.collected = self.head.hidden.new_empty(size, self.head.vocab_size)
        return self.collected[self._filled : self._filled + count]

    def _collect(self, rows: Rows, gradient) -> None:
        gradient.dense(out=self._place(row_count(rows)))
        self.waiting.append(rows)

    def _add_waiting(self, last: bool = False) -> None:
        if self.waiting:
            self._add_products(self._joined(self.waiting), self.collected[: self._filled], last)
        self.waiting = []

    def _joined(self, pieces: list[Rows]) -> Rows:
        in_a_row = all(isinstance(piece, slice) for piece in pieces)
        if in_a_row and all(one.stop == other.start for one, other in itertools.pairwise(pieces)):
            return slice(pieces[0].start, pieces[-1].stop)
        return torch.cat([self.row_numbers[piece] for piece in pieces])

    def _add_products(self, rows: Rows, part: Float[Tensor, "N V"], last: bool = False) -> None:
        """last: nothing will be added to the head's gradient."""
        head, hidden = self.head, self.head.hidden[rows]
        as_is = multiplied_as_is(part, head.weight)
        pieces = [slice(0, head.vocab_size)] if as_is else list(head.vocab_parts())
        if self.hidden is not None and as_is:
            # The product itself may round, where it is the result.
            is_final = self.mean_row is None and self.vocabulary is WHOLE
            dtype = self.hidden.dtype if is_final else head.compute
            self._add_to_hidden(rows, part, product(part, head.weight[: head.vocab_size], dtype))
        elif self.hidden is not None:
            total = torch.zeros_like(hidden, dtype=head.compute)
            for piece in pieces:
                add_product(total, part[:, piece], head.weight[piece])
            self._add_to_hidden(rows, part, total)
        if self.weight is not None and self.weight.is_empty() and pieces == [slice(0, len(head.weight))]:
            self.weight.start(product(part.T, hidden, part.dtype if last else head.compute))
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

    def _count(self, rows: int, columns: int) -> None:
        self.rows += rows
        self.kept += rows * columns


class AttachGradients(torch.autograd.Function):
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
            None if hidden is None else scaled(hidden, upstream, hidden_dtype, ctx.gradients.fused),
            None if weight is None else weight.scaled(upstream, weight_dtype),
            None if bias is None else scaled(bias, upstream, bias_dtype),
            None,
        )


def _aligned(columns: int) -> int:
    """At least so many, and a multiple of what a product reads at once: others are multiplied slowly."""
    return -(-max(1, columns) // 128) * 128
