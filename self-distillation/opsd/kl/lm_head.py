"""A model's last product: logits of chosen rows, from hidden states and head."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from opsd.kl.matmul import multiplied_as_is, product

# Elements (128 MiB in fp32) of one chunk's logits of one model outside of the fused kernels, whose working set is
# about eight buffers of this size, twelve for jsd; and of the pieces in which a head is upcast and its gradient
# is accumulated where matrices are not multiplied as they are.
CHUNK_ELEMENTS = 2**25

# A choice of rows; a slice where possible, which copies nothing.
Rows = slice | Int[Tensor, " N"]


def row_count(rows: Rows) -> int:
    return rows.stop - rows.start if isinstance(rows, slice) else len(rows)


@dataclass(frozen=True)
class Head:
    """hidden @ weight.T (+ bias), over the first `vocab_size` columns, in `compute` (fp32 or fp64)."""

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
