"""Hidden states at the positions that predict y, and the LM head that turns them into logits."""

import contextlib
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from torch import Tensor

from srt.common.distillable import why_not_distillable
from srt.common.errors import UserError
from srt.contract.layout import TokenSequence, predicting_positions


@dataclass(frozen=True)
class LMHead:
    """logits = hidden @ weight.T + bias.

    `group`: the ranks that share the `vocab_size` entries (tensor parallel); None: all are here. Entries beyond
    `vocab_size`, counted over all ranks, are padding.
    """

    weight: Float[Tensor, "Vp H"]
    bias: Float[Tensor, " Vp"] | None
    vocab_size: int
    group: dist.ProcessGroup | None = None

    def detached_copy(self) -> "LMHead":
        """The head as it is now, without gradients, in memory of its own."""
        bias = None if self.bias is None else self.bias.detach().clone()
        return replace(self, weight=self.weight.detach().clone(), bias=bias)


def check_supported(model: Any, name: str) -> None:
    """Raises UserError for a model whose tokens look ahead, or whose logits are more than hidden @ head.T + bias.

    In `predicting_hidden` tokens that look ahead would see padding.
    """
    if reason := why_not_distillable(model.config):
        raise UserError(f"{name}: {reason}")


@torch.no_grad()
def check_logits(model: Any, name: str, token_id: int) -> None:
    """Raises UserError when the model's logits are not hidden @ head.T + bias, whatever its config says.

    One forward pass over a few tokens decides: some families scale or cap their logits under names of their own.
    """
    sequence = TokenSequence([token_id] * 4, start=1)
    hidden = predicting_hidden(model, [sequence], pad_id=token_id)
    head = lm_head(model)
    ids = torch.tensor([sequence.ids], device=model.device)
    with autocast(model.device, autocast_dtype(model.device)):
        logits = model(input_ids=ids, use_cache=False).logits[0, :-1].float()  # (T, V)
    expected = hidden.to(head.weight.dtype).float() @ head.weight.float().T
    if head.bias is not None:
        expected += head.bias.float()
    error = (logits - expected).abs().max() / expected.abs().max().clamp(min=1e-6)
    if not error < 0.02:  # bf16 rounds to 0.4%
        raise UserError(
            f"{name}: its logits differ from its last hidden states times its LM head (by {error:.0%} of the "
            "largest one); models that change their logits after the LM head are not supported"
        )


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """bf16 matrix products over fp32 weights on a GPU; None, no autocast, on a CPU."""
    return torch.bfloat16 if device.type == "cuda" else None


def autocast(device: torch.device, dtype: torch.dtype | None) -> contextlib.AbstractContextManager:
    return contextlib.nullcontext() if dtype is None else torch.autocast(device.type, dtype)


def predicting_hidden(model: Any, sequences: list[TokenSequence], pad_id: int) -> Float[Tensor, "T H"]:
    """The last hidden states whose logits predict the supervised tokens, one sequence after the other.

    T is the number of supervised tokens of all sequences. No logits are formed. There is no attention mask:
    padding follows the tokens of a sequence, where a causal model's tokens never look, whether it uses full or
    sliding-window attention or a recurrence; without a mask torch takes its fastest attention kernel.
    """
    ids, sequence_index, positions = padded(sequences, pad_id)
    device = model.device
    with autocast(device, autocast_dtype(device)):
        hidden = model.base_model(input_ids=ids.to(device), use_cache=False).last_hidden_state  # (B, L, H)
    return hidden.flatten(0, 1).index_select(0, (sequence_index * ids.shape[1] + positions).to(device))


def padded(
    sequences: list[TokenSequence], pad_id: int, multiple: int = 1
) -> tuple[Int[Tensor, "B L"], Int[Tensor, " T"], Int[Tensor, " T"]]:
    """Right-padded ids, L a multiple of `multiple`; and of each supervised token its sequence and the position
    that predicts it."""
    length = max(len(sequence.ids) for sequence in sequences)
    length = -(-length // multiple) * multiple
    ids = torch.tensor([sequence.ids + [pad_id] * (length - len(sequence.ids)) for sequence in sequences])
    predicting = [predicting_positions(sequence) for sequence in sequences]
    counts = torch.tensor([len(positions) for positions in predicting])
    sequence_index = torch.arange(len(sequences)).repeat_interleave(counts)
    positions = torch.cat([torch.arange(positions.start, positions.stop) for positions in predicting])
    return ids, sequence_index, positions


def lm_head(model: Any) -> LMHead:
    """The model's LM head in the dtype of its matrix products; differentiable."""
    layer = model.get_output_embeddings()
    weight, bias = layer.weight, getattr(layer, "bias", None)
    dtype = torch.bfloat16 if weight.is_cuda else weight.dtype
    return LMHead(weight.to(dtype), None if bias is None else bias.to(dtype), vocab_size=len(weight))
