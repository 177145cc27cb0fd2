"""A model's last matrix product: the logits of a chunk of tokens, from hidden states and lm_head."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from opsd.kl import chunks
from opsd.kl.chunks import Tokens
from opsd.kl.logit_transform import LogitTransform
from opsd.kl.matmul import can_mm_natively, mm_fp32


@dataclass(frozen=True)
class LMHead:
    """transform(hidden @ weight.T (+ bias)), over the first `vocab_size` vocab entries, in `compute` (fp32 or
    fp64)."""

    hidden: Float[Tensor, "T H"]
    weight: Float[Tensor, "Vp H"]
    bias: Float[Tensor, " Vp"] | None
    vocab_size: int
    compute: torch.dtype
    transform: LogitTransform

    def logits(self, tokens: Tokens) -> Float[Tensor, "N V"]:
        hidden = self.hidden[tokens]
        if self.weight.dtype == self.compute or can_mm_natively(hidden, self.weight):
            logits = mm_fp32(hidden, self.weight[: self.vocab_size].T, self.compute)
        else:
            logits = hidden.new_empty(len(hidden), self.vocab_size, dtype=self.compute)
            for piece in self.vocab_pieces():
                logits[:, piece] = mm_fp32(hidden, self.weight[piece].T, self.compute)
        if self.bias is not None:
            logits.add_(self.bias.detach()[: self.vocab_size])
        return self.transform.apply_(logits)

    def gradient_dtype(self) -> torch.dtype:
        """The dtype in which the logits' gradient enters its two products."""
        # Not fp16: most of a token's probabilities, times its weight, are below its range.
        is_bf16 = self.hidden.is_cuda and self.hidden.dtype == self.weight.dtype == torch.bfloat16
        return torch.bfloat16 if is_bf16 else self.compute

    def vocab_pieces(self) -> Iterator[slice]:
        """Slices of the vocabulary whose rows of `weight` are small enough to be upcast together."""
        size = max(1, chunks.CHUNK_ELEMENTS // max(1, self.weight.shape[1]))
        for start in range(0, self.vocab_size, size):
            yield slice(start, min(start + size, self.vocab_size))
