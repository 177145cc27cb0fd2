"""The weighted gradient of one chunk's student logits, however it was formed."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from opsd.kl.divergences import Vocabulary


@runtime_checkable  # for the type checks in tests
class ChunkGradient(Protocol):
    """What the accumulators ask of a chunk's gradient: `DenseGradient` or `kernels.fused.FusedChunk`."""

    @property
    def can_flag(self) -> bool:
        """Whether `flag` is supported."""
        ...

    def flag(self, eps: float, max_dropped: float) -> Bool[Tensor, " V"] | Int[Tensor, " V"]:
        """True or 1 for each vocab entry whose gradient is to be kept; see `flag_entries`."""
        ...

    def gather(self, entries: Int[Tensor, " F"], dtype: torch.dtype) -> Float[Tensor, "N F"]:
        """The gradient at some vocab entries; 0 where an entry is V."""
        ...

    def dense(self, out: Float[Tensor, "N V"] | None = None) -> Float[Tensor, "N V"]:
        """The gradient at all vocab entries, in `out` if given."""
        ...


@dataclass(frozen=True)
class DenseGradient:
    """A gradient that exists as a matrix."""

    values: Float[Tensor, "N V"]
    vocabulary: Vocabulary

    @property
    def can_flag(self) -> bool:
        return True

    def flag(self, eps: float, max_dropped: float) -> Bool[Tensor, " V"]:
        return flag_entries(self.values, eps, max_dropped, self.vocabulary.all_reduce_sum)

    def gather(self, entries: Int[Tensor, " F"], dtype: torch.dtype) -> Float[Tensor, "N F"]:
        vocab = self.values.shape[1]
        return self.values[:, entries.clamp(max=vocab - 1)].to(dtype).masked_fill_(entries >= vocab, 0.0)

    def dense(self, out: Float[Tensor, "N V"] | None = None) -> Float[Tensor, "N V"]:
        return self.values if out is None else out.copy_(self.values)


def flag_entries(
    gradient: Float[Tensor, "N V"], eps: float, max_dropped: float, all_reduce_sum: Callable[[Tensor], Tensor]
) -> Bool[Tensor, " V"]:
    """True for each vocab entry where any token's |gradient| exceeds eps times the root mean square of the tokens'
    gradient norms; True for all if the values below hold more than `max_dropped` of the gradient's norm."""
    square = gradient.square()
    norm2 = all_reduce_sum(square.sum())
    below = square <= eps**2 * norm2 / len(gradient)  # False for values that are not finite
    dropped = square.mul_(below).sum()
    return (~below).any(0) | ~(dropped <= max_dropped**2 * norm2)
