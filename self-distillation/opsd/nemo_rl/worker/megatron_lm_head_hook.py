"""Megatron-Core's GPTModel up to its output layer: the counterpart of at_head.py.

The output layer's forward pre-hook gets the hidden states and, where embeddings are tied, the weight. Nothing of
the model is replaced, and its logits are formed for one position of each rank only, since its forward must return
some.

Whose gradient is whole: exact_kl gives every tensor-parallel rank the whole gradient of the hidden states, and its
own rows' gradient of the weight. Megatron's layer would have summed partial gradients over the ranks, in an
all-reduce or, with sequence parallelism, in the reduce-scatter behind its all-gather. Here nothing may be summed:
replicated hidden states take the gradient as it is, and those split along the sequence take their slice of it.

The weight's gradient arrives as an ordinary `.grad`, which the hook of Megatron's DDP adds to `main_grad`: what it
skips is a weight that its own layer has just added (`grad_added_to_main_grad`), which ours never goes through.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from megatron.core.tensor_parallel import gather_from_sequence_parallel_region
from megatron.core.utils import unwrap_model
from torch import Tensor

from opsd.hidden_states import padded
from opsd.nemo_rl.worker.lm_head_hook import Head, Result
from srt.contract.layout import TokenSequence


def run_to_output_layer(
    model: Any,
    rows: list[TokenSequence],
    pad_id: int,
    vocab_size: int,
    then: Callable[[Float[Tensor, "T H"], Head], Result],
) -> Result:
    """then(hidden, head): `hidden` predicts the rows' supervised tokens, row after row; both carry gradients.

    model: a GPTModel, bare or in Megatron's wrappers, without pipeline and context parallelism. All ranks that
        share it must call together.
    vocab_size: of the tokenizer's model; Megatron pads the output layer beyond it.
    `then` runs inside the model's forward pass. There is no attention mask: the model's attention is causal, and
    padding stands at the end of a row.
    """
    layer = unwrap_model(model).output_layer
    group = layer.tp_group
    device = next(model.parameters()).device
    # Sequence parallelism gives every rank an equal part of the positions.
    ids, in_row, positions = padded(rows, pad_id, group.size() if layer.sequence_parallel else 1)
    places = (positions * len(rows) + in_row).to(device)  # Megatron's order is position, then row
    results: list[Result] = []

    def at_output_layer(layer: Any, inputs: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, Any]:
        given = inputs[0]  # (L, B, H), or (L / ranks, B, H)
        hidden = given
        if layer.sequence_parallel:
            hidden = gather_from_sequence_parallel_region(given, tensor_parallel_output_grad=False, group=group)
        weight = named.get("weight")
        head = Head(
            layer.weight if weight is None else weight,
            layer.bias,
            vocab_size,
            group if group.size() > 1 else None,
        )
        results.append(then(hidden.flatten(0, 1).index_select(0, places), head))
        return (given[-1:].detach(), *inputs[1:]), named

    hook = layer.register_forward_pre_hook(at_output_layer, with_kwargs=True)
    try:
        model(
            input_ids=ids.to(device),
            position_ids=torch.arange(ids.shape[1], device=device).expand(len(rows), -1),
            attention_mask=None,
        )
    finally:
        hook.remove()
    return results[0]
