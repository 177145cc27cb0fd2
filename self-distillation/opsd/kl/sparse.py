"""The two products of the backward pass over the few vocab entries that carry gradient.

The gradient of a logit is p (log p/q - KL): nearly all vocab entries of a chunk carry next to none. The products
therefore run over the flagged entries only, and the lm_head's gradient is summed, in fp32, for the rows that any
chunk has flagged. The full [V, H] exists only once autograd asks for it.

What is dropped is small in every vocab entry but has a common direction, because the rows of an lm_head do. As a
token's gradient sums to zero over the vocabulary, sum_v g_v W_v = sum_v g_v (W_v - m) for any m; with m the mean
row, the dropped entries contribute nothing along that direction (on 192 hidden states of Qwen2.5-Coder-0.5B at
grad_eps = 1e-4 the error of the hidden states' gradient falls from 0.6% to 0.3%). Soft-capped logits are an
exception: their gradient does not sum to zero, and no row is subtracted.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from opsd.kl.chunk_gradient import ChunkGradient, DenseGradient
from opsd.kl.chunks import Tokens
from opsd.kl.dense import DenseAccumulator, Reservation
from opsd.kl.gradients import StudentGradients
from opsd.kl.matmul import mm_fp32
from opsd.kl.sparse_rows import MAX_ACTIVE_FRACTION

# The largest part of a chunk's gradient (of the norm of its logits' gradient) that may be dropped.
MAX_DROPPED = 2e-3
# After a chunk of which nothing could be dropped, this many chunks use all vocab entries without being flagged.
DENSE_COOLDOWN = 7


class AsyncHostCopy:
    """A few integers copied from the GPU to the host; `read` does not wait for work launched after the copy."""

    def __init__(self, numbers: Int[Tensor, " n"]) -> None:
        self.numbers = numbers.to("cpu", non_blocking=True)  # into pinned memory
        self.event = torch.cuda.current_stream(numbers.device).record_event() if numbers.is_cuda else None

    def read(self) -> list[int]:
        if self.event is not None:
            self.event.synchronize()
        return self.numbers.tolist()


@dataclass(frozen=True)
class _FlaggedChunk:
    """A chunk's gradient at its flagged vocab entries, or at the first E of them."""

    tokens: Tokens
    entries: Int[Tensor, " V"]  # the flagged entries, then V
    part: Float[Tensor, "N E"]
    # Entries flagged in all processes; processes that flagged more than E; entries flagged in this process; and,
    # if the lm_head is trained, rows of its table in use before.
    counts: AsyncHostCopy


class SparseAccumulator:
    """Adds chunks' gradients at their flagged vocab entries to the student's gradients. Methods as in
    `DenseAccumulator`, to which chunks with too many flagged entries go.

    Only the GPU knows how many entries a chunk has flagged, and the host does not wait for that number. The
    gradient is gathered immediately, for as many entries as earlier chunks had (plus a quarter); the products are
    launched when the next chunk is added, behind that chunk's logits, by when the number has arrived. A chunk that
    turns out to have flagged more is computed again at the end.
    """

    def __init__(self, gradients: StudentGradients, dense: DenseAccumulator, grad_eps: float) -> None:
        self.gradients, self.dense, self.grad_eps = gradients, dense, grad_eps
        self.lm_head, self.vocabulary = gradients.lm_head, gradients.vocabulary
        self.cooldown = 0  # chunks that go to `dense` without being flagged
        # Entries that are gathered; at first an estimate, a sixteenth of the vocabulary.
        self.capacity, self.capacity_is_estimate = _aligned(self.lm_head.vocab_size // 16), True
        self.in_flight: _FlaggedChunk | None = None
        self.retry: list[Tokens] = []
        self.entry_ranks = torch.arange(1, self.lm_head.vocab_size + 1, device=self.lm_head.hidden.device)

    def reserve(self, tokens: Tokens) -> Reservation | None:
        return self.dense.reserve(tokens) if self.cooldown else None

    def add(
        self,
        tokens: Tokens,
        gradient: ChunkGradient,
        reservation: Reservation | None = None,
        blocking: bool = False,
    ) -> None:
        """blocking: fold the gradient in before returning, even if that means waiting for the GPU."""
        self._flush()
        if self.cooldown:
            self.cooldown -= 1
            self.dense.add(tokens, gradient, reservation)
            return
        if not gradient.can_flag:
            gradient = DenseGradient(gradient.dense(), self.vocabulary)
        self.in_flight = self._flag(tokens, gradient)
        if blocking or self.capacity_is_estimate:
            self._flush(gradient)

    def take_retries(self) -> list[Tokens]:
        self._flush()
        retry, self.retry = self.retry, []
        return retry

    def finish(self) -> None:
        self.dense.finish()

    def _flag(self, tokens: Tokens, gradient: ChunkGradient) -> _FlaggedChunk:
        ranks = gradient.flag(self.grad_eps, MAX_DROPPED).cumsum(0)
        count = ranks[-1]
        # Reduced over the group, so that its processes decide alike.
        shared = self.vocabulary.all_reduce_sum(torch.stack([count, (count > self.capacity).long()]))
        weight = self.gradients.weight
        local = [count] if weight is None else [count, weight.used]
        counts = AsyncHostCopy(torch.cat([shared, torch.stack(local)]))
        entries = torch.searchsorted(ranks, self.entry_ranks)
        part = gradient.gather(entries[: self.capacity], self.lm_head.gradient_dtype())
        return _FlaggedChunk(tokens, entries, part, counts)

    def _flush(self, gradient: ChunkGradient | None = None) -> None:
        """Fold in the chunk in flight. gradient: the chunk's, where it still exists."""
        if self.in_flight is None:
            return
        flagged, self.in_flight = self.in_flight, None
        total, overflows, count, *used = flagged.counts.read()
        if total > MAX_ACTIVE_FRACTION * self.vocabulary.size(self.lm_head.vocab_size):
            self.cooldown, self.capacity_is_estimate = DENSE_COOLDOWN, True
            if gradient is None:
                self.retry.append(flagged.tokens)
            else:
                self.dense.add(flagged.tokens, gradient)
            return
        part, gathered = flagged.part, flagged.part.shape[1]
        needed = _aligned(count + count // 4)
        self.capacity = needed if self.capacity_is_estimate else max(self.capacity, needed)
        self.capacity_is_estimate = False
        if overflows and gradient is None:
            self.retry.append(flagged.tokens)
            return
        entries = flagged.entries[: _aligned(count)]
        if count > gathered and gradient is not None:
            part = gradient.gather(entries, self.lm_head.gradient_dtype())
        if self.gradients.weight is not None:
            self.gradients.weight.reserve(used[0] + count)
        self._add_products(flagged.tokens, entries, count, part[:, : len(entries)])

    def _add_products(
        self, tokens: Tokens, entries: Int[Tensor, " F"], count: int, part: Float[Tensor, "N F"]
    ) -> None:
        """The first `count` entries are vocab entries; the rest, V, are padding without gradient."""
        gradients, lm_head = self.gradients, self.lm_head
        compute, hidden = lm_head.compute, lm_head.hidden[tokens]
        gradients.count(len(hidden), count)
        if gradients.hidden is not None:
            rows = lm_head.weight[entries.clamp(max=lm_head.vocab_size - 1)]
            gradients.set_hidden(tokens, part, mm_fp32(part, rows, compute))
        if gradients.weight is not None:
            gradients.weight.add(entries[:count], mm_fp32(part.T, hidden, compute)[:count])
        if gradients.bias is not None:
            gradients.bias[entries[:count]] += part.sum(0, dtype=compute)[:count]


def _aligned(entries: int) -> int:
    """`entries`, rounded up to a multiple of 128, at least one: other sizes are multiplied slowly."""
    return -(-max(1, entries) // 128) * 128
