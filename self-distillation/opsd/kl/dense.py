"""The two products of the backward pass over the whole vocabulary."""

import itertools
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from opsd.kl.chunk_gradient import ChunkGradient
from opsd.kl.chunks import Tokens, token_count
from opsd.kl.divergences import FULL_VOCAB
from opsd.kl.gradients import StudentGradients
from opsd.kl.matmul import addmm_fp32, can_mm_natively, mm_fp32

# Tokens whose bf16 gradient is buffered before the two products: each pass over the lm_head's fp32 gradient costs
# a tenth of the product. Up to WHOLE_BATCH_TOKENS, all tokens are buffered: the lm_head's gradient is then a
# single product, written in bf16 instead of fp32, and needs no more memory.
BUFFER_TOKENS = 4096
WHOLE_BATCH_TOKENS = 8192


@dataclass(frozen=True)
class Reservation:
    """Room for some tokens' gradient in the buffer of a `DenseAccumulator`, which commits it once written."""

    tokens: Tokens
    start: int  # first row of the buffer
    output_buffer: Float[Tensor, "N V"]


class DenseAccumulator:
    """Adds chunks' gradients at all vocab entries to the student's gradients: `add` every chunk, then `finish`.

    Where the gradient of the logits is bf16, chunks are buffered and multiplied together. Whoever forms a chunk's
    gradient may write it directly to the buffer: `reserve` room first, and pass the reservation to `add`.
    """

    def __init__(self, gradients: StudentGradients, total_tokens: int) -> None:
        """total_tokens: of all chunks together."""
        self.gradients = gradients
        self.lm_head, self.vocabulary = gradients.lm_head, gradients.vocabulary
        self.is_buffered = self.lm_head.gradient_dtype() == torch.bfloat16
        self.buffer: Float[Tensor, "B V"] | None = None
        self.buffered: list[Tokens] = []
        self.filled = 0  # rows of the buffer that hold a committed gradient
        self.capacity = total_tokens if total_tokens <= WHOLE_BATCH_TOKENS else BUFFER_TOKENS

    def reserve(self, tokens: Tokens) -> Reservation | None:
        """Room for the gradient of the tokens that are added next; None where no kernel would write to it."""
        return self._reserve(tokens) if self.is_buffered and self.gradients.fused else None

    def add(
        self,
        tokens: Tokens,
        gradient: ChunkGradient,
        reservation: Reservation | None = None,
        blocking: bool = False,  # as always here
    ) -> None:
        """Fold in the gradient of the tokens' logits. reservation: for these tokens, if one was made."""
        self.gradients.count(token_count(tokens), self.lm_head.vocab_size)
        if not self.is_buffered:
            self._add_products(tokens, gradient.dense())
            return
        reservation = reservation or self._reserve(tokens)
        gradient.dense(out=reservation.output_buffer)
        self._commit(reservation)

    def take_retries(self) -> list[Tokens]:
        """Chunks that must be computed and added again."""
        return []

    def finish(self) -> None:
        """Call after the last chunk."""
        self._flush(last=True)
        self.buffer = None

    def _reserve(self, tokens: Tokens) -> Reservation:
        count = token_count(tokens)
        if self.buffer is not None and self.filled + count > len(self.buffer):
            self._flush()
        if self.buffer is None or count > len(self.buffer):
            size = max(self.capacity, count)
            self.buffer = self.lm_head.hidden.new_empty(size, self.lm_head.vocab_size)
        return Reservation(tokens, self.filled, self.buffer[self.filled : self.filled + count])

    def _commit(self, reservation: Reservation) -> None:
        if reservation.start != self.filled:
            raise RuntimeError(f"reserved from row {reservation.start} of the buffer, expected {self.filled}")
        self.buffered.append(reservation.tokens)
        self.filled += len(reservation.output_buffer)

    def _flush(self, last: bool = False) -> None:
        if self.buffer is not None and self.buffered:
            self._add_products(self._joined(self.buffered), self.buffer[: self.filled], last)
        self.buffered, self.filled = [], 0

    def _joined(self, chunks: list[Tokens]) -> Tokens:
        slices = [chunk for chunk in chunks if isinstance(chunk, slice)]
        consecutive = all(chunk.stop == following.start for chunk, following in itertools.pairwise(slices))
        if len(slices) == len(chunks) and consecutive:
            return slice(slices[0].start, slices[-1].stop)
        numbers = torch.arange(len(self.lm_head.hidden), device=self.lm_head.hidden.device)
        return torch.cat([numbers[chunk] for chunk in chunks])

    def _add_products(self, tokens: Tokens, part: Float[Tensor, "N V"], last: bool = False) -> None:
        """last: nothing will be added to the lm_head's gradient afterwards."""
        lm_head, gradients = self.lm_head, self.gradients
        hidden = lm_head.hidden[tokens]
        native = can_mm_natively(part, lm_head.weight)
        pieces = [slice(0, lm_head.vocab_size)] if native else list(lm_head.vocab_pieces())
        if gradients.hidden is not None and native:
            # The product may round its output where that is the result.
            is_final = gradients.mean_row is None and self.vocabulary is FULL_VOCAB
            dtype = gradients.hidden.dtype if is_final else lm_head.compute
            gradients.set_hidden(tokens, part, mm_fp32(part, lm_head.weight[: lm_head.vocab_size], dtype))
        elif gradients.hidden is not None:
            total = torch.zeros_like(hidden, dtype=lm_head.compute)
            for piece in pieces:
                addmm_fp32(total, part[:, piece], lm_head.weight[piece])
            gradients.set_hidden(tokens, part, total)
        weight = gradients.weight
        if weight is not None and weight.is_empty() and pieces == [slice(0, len(lm_head.weight))]:
            weight.start_dense(mm_fp32(part.T, hidden, part.dtype if last else lm_head.compute))
        elif weight is not None:
            whole = weight.to_dense()
            for piece in pieces:
                addmm_fp32(whole[piece], part[:, piece].T, hidden)
        if gradients.bias is not None:
            gradients.bias[: lm_head.vocab_size] += part.sum(0, dtype=lm_head.compute)
