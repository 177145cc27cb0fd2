"""A transformers causal LM up to its LM head: hidden states and the head's weight, however the model is sharded.

The head's forward pre-hook is the one place where an FSDP2 model has the whole weight of its head at hand, with
gradients that find their way back into the shards. Nothing in the model is replaced, and logits are formed for one
position per sequence only, since a model's forward pass must return some.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from opsd.hidden_states import LMHead, autocast, lm_head_of, packed_pass, padded_pass
from opsd.kl import IDENTITY, LogitTransform
from srt.common.packing import to_device
from srt.contract.layout import TokenSequence

Result = TypeVar("Result")


def run_to_lm_head(
    model: Any,
    sequences: list[TokenSequence],
    pad_id: int,
    autocast_dtype: torch.dtype | None,
    then: Callable[[Float[Tensor, "T H"], LMHead], Result],
    transform: LogitTransform = IDENTITY,
    packed: bool = False,
) -> Result:
    """then(hidden, head): `hidden` predicts the supervised tokens, one sequence after the other; both carry
    gradients.

    model: a transformers causal LM, plain, FSDP2-sharded or tensor-parallel. All ranks that share it must call
        together.
    autocast_dtype: None turns autocast off.
    transform: what the model does to its logits (opsd.logits), for `head`.
    packed: as in hidden_states.predicting_hidden.
    `then` runs inside the model's forward pass, while its head is whole.
    """
    inputs, predicting = packed_pass(sequences) if packed else padded_pass(sequences, pad_id)
    results: list[Result] = []

    def hook(layer: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        hidden = inputs[0]  # (B, L, H)
        selected = hidden.flatten(0, 1).index_select(0, predicting.to(hidden.device))
        results.append(then(selected, lm_head_of(layer, transform)))
        return (hidden[:, -1:], *inputs[1:])

    # Before the hooks of tensor parallelism, which turn the hidden states into a DTensor.
    handle = model.get_output_embeddings().register_forward_pre_hook(hook, prepend=True)
    try:
        forward(model, inputs.pop("input_ids"), autocast_dtype, **inputs)
    finally:
        handle.remove()
    return results[0]


def forward(model: Any, ids: Int[Tensor, "B L"], autocast_dtype: torch.dtype | None, **inputs: Any) -> Tensor:
    """The model's logits. `inputs`: beside the ids; positions are counted from 0 unless they are among them."""
    device = model.device
    # Given explicitly: a tensor-parallel model would shard those it makes itself.
    inputs = {"position_ids": torch.arange(ids.shape[1]).expand(ids.shape)} | inputs
    with autocast(device, autocast_dtype):
        output = model(input_ids=ids.to(device), **to_device(inputs, device), use_cache=False)
    return output.logits
