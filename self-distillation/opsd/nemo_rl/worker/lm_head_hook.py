"""A transformers causal LM up to its head: hidden states and the head's weight, whatever shards the model.

The head's forward pre-hook is the one place where an FSDP2 model has its head's whole weight at hand, with
gradients that find their way back into the shards. Nothing of the model is replaced, and its logits are formed for
one position a row only, since a model's forward must return some.
"""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor
from torch.distributed.tensor import DTensor

from opsd.hidden_states import padded
from srt.contract.layout import TokenSequence

Result = TypeVar("Result")


@dataclass(frozen=True)
class Head:
    """logits = hidden @ weight.T + bias. `group`: the ranks that share its `vocab_size` rows; None: all here.

    Rows beyond `vocab_size`, counted over all ranks, are padding.
    """

    weight: Float[Tensor, "Vp H"]
    bias: Float[Tensor, " Vp"] | None
    vocab_size: int
    group: dist.ProcessGroup | None

    def copy(self) -> "Head":
        """The head as it is now, without its gradients and its place among the model's weights."""
        bias = None if self.bias is None else self.bias.detach().clone()
        return replace(self, weight=self.weight.detach().clone(), bias=bias)


def run_to_head(
    model: Any,
    rows: list[TokenSequence],
    pad_id: int,
    dtype: torch.dtype | None,
    then: Callable[[Float[Tensor, "T H"], Head], Result],
) -> Result:
    """then(hidden, head): `hidden` predicts the rows' supervised tokens, row after row; both carry gradients.

    model: a transformers causal LM, plain, FSDP2-sharded or tensor-parallel. All ranks that share it must call
        together.
    dtype: that of an enclosing autocast; None: none.
    `then` runs inside the model's forward pass, while its head is whole. There is no attention mask: padding
    stands at the end of a row, where a causal model's real tokens never look.
    """
    ids, in_row, positions = padded(rows, pad_id)
    width = ids.shape[1]
    places = in_row * width + positions
    device = model.device
    results: list[Result] = []

    def at_head(layer: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        hidden = inputs[0]  # (B, L, H)
        results.append(then(hidden.flatten(0, 1).index_select(0, places.to(hidden.device)), head_of(layer)))
        return (hidden[:, -1:], *inputs[1:])

    # Before the hooks of tensor parallelism, which make a DTensor of the hidden states.
    hook = model.get_output_embeddings().register_forward_pre_hook(at_head, prepend=True)
    autocast = contextlib.nullcontext() if dtype is None else torch.autocast(device.type, dtype)
    try:
        with autocast:
            model(
                input_ids=ids.to(device),
                # Given, not left to the model: a tensor-parallel one would shard those it makes itself.
                position_ids=torch.arange(width, device=device).expand(len(rows), width),
                use_cache=False,
            )
    finally:
        hook.remove()
    return results[0]


def head_of(layer: Any) -> Head:
    """The head's weight and bias; of a tensor-parallel one this rank's rows. Gradients find their way back."""
    weight, bias = layer.weight, getattr(layer, "bias", None)
    if not isinstance(weight, DTensor):
        return Head(weight, bias, len(weight), None)
    local_bias = None if bias is None else bias.to_local()
    return Head(weight.to_local(), local_bias, len(weight), weight.device_mesh.get_group("tp"))
