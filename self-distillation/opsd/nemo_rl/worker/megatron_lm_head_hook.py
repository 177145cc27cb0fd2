"""Megatron-Core's GPTModel up to its output layer: the counterpart of lm_head_hook.py.

The output layer's forward pre-hook gets the hidden states and, where embeddings are tied, the weight. Nothing in
the model is replaced, and logits are formed for one position on each rank only, since its forward pass must return
some.

Which gradients are complete: exact_kl gives every tensor-parallel rank the whole gradient of the hidden states,
and the gradient of its own vocabulary entries of the weight. Megatron's layer would have summed partial gradients
over the ranks, in an all-reduce or, with sequence parallelism, in the reduce-scatter behind its all-gather. Here
nothing may be summed: replicated hidden states take the gradient as it is, and those split along the sequence take
their slice of it.

The weight's gradient arrives as an ordinary `.grad`, which the hook of Megatron's DDP adds to `main_grad`. It
skips only weights whose own layer has already added theirs (`grad_added_to_main_grad`), which ours never does.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from megatron.core.tensor_parallel import gather_from_sequence_parallel_region
from megatron.core.utils import unwrap_model
from torch import Tensor

from opsd.hidden_states import LMHead, padded
from opsd.nemo_rl.worker.lm_head_hook import Result
from srt.contract.layout import TokenSequence


def run_to_output_layer(
    model: Any,
    sequences: list[TokenSequence],
    pad_id: int,
    vocab_size: int,
    then: Callable[[Float[Tensor, "T H"], LMHead], Result],
) -> Result:
    """then(hidden, head): `hidden` predicts the supervised tokens, one sequence after the other; both carry
    gradients.

    model: a GPTModel, bare or in Megatron's wrappers, without pipeline and context parallelism. All ranks that
        share it must call together.
    vocab_size: of the tokenizer's model; Megatron pads the output layer beyond it.
    `then` runs inside the model's forward pass. There is no attention mask: the model's attention is causal, and
    padding follows the tokens of a sequence.
    """
    layer = unwrap_model(model).output_layer
    group = layer.tp_group
    device = next(model.parameters()).device
    # Sequence parallelism gives every rank an equal part of the positions.
    ids, sequence_index, positions = padded(sequences, pad_id, group.size() if layer.sequence_parallel else 1)
    predicting = (positions * len(sequences) + sequence_index).to(device)  # Megatron's order: position, sequence
    results: list[Result] = []

    def hook(layer: Any, inputs: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, Any]:
        local = inputs[0]  # (L, B, H), or (L / ranks, B, H)
        hidden = local
        if layer.sequence_parallel:
            hidden = gather_from_sequence_parallel_region(local, tensor_parallel_output_grad=False, group=group)
        weight = named.get("weight")
        head = LMHead(
            layer.weight if weight is None else weight,
            layer.bias,
            vocab_size,
            group if group.size() > 1 else None,
        )
        results.append(then(hidden.flatten(0, 1).index_select(0, predicting), head))
        return (local[-1:].detach(), *inputs[1:]), named

    handle = layer.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        model(
            input_ids=ids.to(device),
            position_ids=torch.arange(ids.shape[1], device=device).expand(len(sequences), -1),
            attention_mask=None,
        )
    finally:
        handle.remove()
    return results[0]
