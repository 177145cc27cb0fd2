"""A transformers causal LM up to its LM head: hidden states and the head's weight, however the model is sharded.

The head's forward pre-hook is the one place where an FSDP2 model has the whole weight of its head at hand, with
gradients that find their way back into the shards. Nothing in the model is replaced, and logits are formed for one
position per sequence only, since a model's forward pass must return some.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributed.tensor import DTensor

from opsd.hidden_states import LMHead, autocast, padded
from srt.contract.layout import TokenSequence

Result = TypeVar("Result")


def run_to_lm_head(
    model: Any,
    sequences: list[TokenSequence],
    pad_id: int,
    autocast_dtype: torch.dtype | None,
    then: Callable[[Float[Tensor, "T H"], LMHead], Result],
) -> Result:
    """then(hidden, head): `hidden` predicts the supervised tokens, one sequence after the other; both carry
    gradients.

    model: a transformers causal LM, plain, FSDP2-sharded or tensor-parallel. All ranks that share it must call
        together.
    autocast_dtype: None turns autocast off.
    `then` runs inside the model's forward pass, while its head is whole. There is no attention mask: padding
    follows the tokens of a sequence, where a causal model's tokens never look.
    """
    ids, sequence_index, positions = padded(sequences, pad_id)
    length = ids.shape[1]
    predicting = sequence_index * length + positions
    device = model.device
    results: list[Result] = []

    def hook(layer: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        hidden = inputs[0]  # (B, L, H)
        results.append(then(hidden.flatten(0, 1).index_select(0, predicting.to(hidden.device)), lm_head_of(layer)))
        return (hidden[:, -1:], *inputs[1:])

    # Before the hooks of tensor parallelism, which turn the hidden states into a DTensor.
    handle = model.get_output_embeddings().register_forward_pre_hook(hook, prepend=True)
    try:
        with autocast(device, autocast_dtype):
            model(
                input_ids=ids.to(device),
                # Given explicitly: a tensor-parallel model would shard those it makes itself.
                position_ids=torch.arange(length, device=device).expand(len(sequences), length),
                use_cache=False,
            )
    finally:
        handle.remove()
    return results[0]


def lm_head_of(layer: Any) -> LMHead:
    """The layer's weight and bias; of a tensor-parallel one this rank's entries. Gradients reach the
    parameters."""
    weight, bias = layer.weight, getattr(layer, "bias", None)
    if not isinstance(weight, DTensor):
        return LMHead(weight, bias, vocab_size=len(weight))
    local_bias = None if bias is None else bias.to_local()
    return LMHead(weight.to_local(), local_bias, len(weight), weight.device_mesh.get_group("tp"))
