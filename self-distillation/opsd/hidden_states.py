"""Hidden states at the positions that predict y, and the LM head that turns them into logits."""

import contextlib
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from torch import Tensor
from torch.distributed.tensor import DTensor

from opsd.kl import IDENTITY, LogitTransform
from srt.common.distillable import why_not_distillable
from srt.common.errors import UserError
from srt.common.packing import packed_inputs, to_device
from srt.contract.layout import TokenSequence, predicting_positions


@dataclass(frozen=True)
class LMHead:
    """logits = transform(hidden @ weight.T + bias).

    `group`: the ranks that share the `vocab_size` entries (tensor parallel); None: all are here. Entries beyond
    `vocab_size`, counted over all ranks, are padding.
    """

    weight: Float[Tensor, "Vp H"]
    bias: Float[Tensor, " Vp"] | None
    vocab_size: int
    group: dist.ProcessGroup | None = None
    transform: LogitTransform = IDENTITY

    def detached_copy(self) -> "LMHead":
        """The head as it is now, without gradients, in memory of its own."""
        bias = None if self.bias is None else self.bias.detach().clone()
        return replace(self, weight=self.weight.detach().clone(), bias=bias)


def check_supported(model: Any, name: str) -> None:
    """Raises UserError for a model whose tokens look ahead: in `predicting_hidden` they would see padding."""
    if reason := why_not_distillable(model.config):
        raise UserError(f"{name}: {reason}")


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """bf16 matrix products over fp32 weights on a GPU; None, no autocast, on a CPU."""
    return torch.bfloat16 if device.type == "cuda" else None


def autocast(device: torch.device, dtype: torch.dtype | None) -> contextlib.AbstractContextManager:
    return contextlib.nullcontext() if dtype is None else torch.autocast(device.type, dtype)


def predicting_hidden(
    model: Any, sequences: list[TokenSequence], pad_id: int, packed: bool = False
) -> Float[Tensor, "T H"]:
    """The last hidden states whose logits predict the supervised tokens, one sequence after the other.

    T is the number of supervised tokens of all sequences. No logits are formed. `packed`: the sequences share one
    row; the model then has the attention for that (srt.common.packing). Else each has a row, with padding behind
    its tokens.
    """
    inputs, predicting = packed_pass(sequences) if packed else padded_pass(sequences, pad_id)
    device = model.device
    with autocast(device, autocast_dtype(device)):
        hidden = model.base_model(**to_device(inputs, device), use_cache=False).last_hidden_state  # (B, L, H)
    return hidden.flatten(0, 1).index_select(0, predicting.to(device))


def packed_pass(sequences: list[TokenSequence]) -> tuple[dict[str, Any], Int[Tensor, " T"]]:
    """What a model is called with for sequences in one row, and the positions that predict supervised tokens."""
    predicting, start = [], 0
    for sequence in sequences:
        positions = predicting_positions(sequence)
        predicting.append(torch.arange(start + positions.start, start + positions.stop))
        start += len(sequence.ids)
    return packed_inputs([sequence.ids for sequence in sequences]), torch.cat(predicting)


def padded_pass(sequences: list[TokenSequence], pad_id: int) -> tuple[dict[str, Any], Int[Tensor, " T"]]:
    """The same with a row for each sequence; positions are counted through all rows, one after the other.

    There is no attention mask: padding follows the tokens of a sequence, where a causal model's tokens never look,
    whether it uses full or sliding-window attention or a recurrence; without a mask torch takes its fastest
    attention kernel.
    """
    ids, sequence_index, positions = padded(sequences, pad_id)
    return {"input_ids": ids}, sequence_index * ids.shape[1] + positions


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


def lm_head(model: Any, transform: LogitTransform = IDENTITY) -> LMHead:
    """The model's LM head in the dtype of its matrix products; differentiable."""
    head = lm_head_of(model.get_output_embeddings(), transform)
    dtype = torch.bfloat16 if head.weight.is_cuda else head.weight.dtype
    return replace(head, weight=head.weight.to(dtype), bias=None if head.bias is None else head.bias.to(dtype))


def lm_head_of(layer: Any, transform: LogitTransform = IDENTITY) -> LMHead:
    """The layer's weight and bias; of a tensor-parallel one this rank's entries. Gradients reach the
    parameters."""
    weight, bias = layer.weight, getattr(layer, "bias", None)
    if not isinstance(weight, DTensor):
        return LMHead(weight, bias, len(weight), None, transform)
    local_bias = None if bias is None else bias.to_local()
    return LMHead(weight.to_local(), local_bias, len(weight), weight.device_mesh.get_group("tp"), transform)
