"""Megatron-Core's GPTModel up to its output layer: the counterpart of lm_head_hook.py.

The output layer's forward pre-hook gets the hidden states and, where embeddings are tied, the weight. Nothing in
the model is replaced, and logits are formed for one position on each rank only, since its forward pass must return
some.

Which gradients are complete: exact_kl gives every tensor-parallel rank the whole gradient of the hidden states,
and the gradient of its own vocabulary entries of the weight. Megatron's layer would have summed partial gradients
over the ranks, in an all-reduce or, with sequence parallelism, in the reduce-scatter behind its all-gather. Here
nothing may be summed: replicated hidden states take the gradient as it is, and those split along the sequence take
their slice of it.

With context parallelism each rank has some positions of every row, other ones of the teacher's than of the
student's. In a pass without gradients all ranks get the hidden states of all of them. In one with gradients each
has its own, zeros for the others and `owned`, which says which are its own: the KL of a rank is the sum over
these, and its weights' gradients are summed over the ranks, as over data-parallel ones.

The weight's gradient arrives as an ordinary `.grad`, which the hook of Megatron's DDP adds to `main_grad`. It
skips only weights whose own layer has already added theirs (`grad_added_to_main_grad`), which ours never does.
"""

from collections.abc import Callable
from typing import Any, cast

import torch
from jaxtyping import Bool
from megatron.core.tensor_parallel import gather_from_sequence_parallel_region
from megatron.core.utils import unwrap_model
from torch import Tensor

from opsd.hidden_states import LMHead, padded
from opsd.nemo_rl.worker.context_parallel import owners, take_part
from opsd.nemo_rl.worker.lm_head_hook import Result
from srt.contract.layout import TokenSequence


def run_to_output_layer(
    model: Any,
    sequences: list[TokenSequence],
    pad_id: int,
    vocab_size: int,
    then: Callable[..., Result],
) -> Result:
    """then(hidden, head): `hidden` predicts the supervised tokens, one sequence after the other; both carry
    gradients. With context parallelism and gradients, then(hidden, head, owned=...).

    model: a GPTModel, bare or in Megatron's wrappers, without pipeline parallelism. All ranks that share it must
        call together.
    vocab_size: of the tokenizer's model; Megatron pads the output layer beyond it.
    `then` runs inside the model's forward pass. There is no attention mask: the model's attention is causal, and
    padding follows the tokens of a sequence.
    """
    return cast("Result", run_stage(model, sequences, pad_id, vocab_size, then)[1])


def run_stage(
    model: Any,
    sequences: list[TokenSequence],
    pad_id: int,
    vocab_size: int,
    then: Callable[..., Result],
) -> tuple[Tensor, Result | None]:
    """The same for one stage of a pipeline: what it passes on and, on the last one, then(hidden, head)."""
    stage = unwrap_model(model)
    tensor, context = stage.pg_collection.tp, stage.pg_collection.cp
    device = next(model.parameters()).device
    split = stage.config.sequence_parallel
    ids, sequence_index, positions = padded(sequences, pad_id, row_multiple(stage))
    place, owned = place_of(positions, ids.shape[1], context)
    predicting = (place * len(sequences) + sequence_index).to(device)  # Megatron's order: position, sequence
    results: list[Result] = []

    def hook(layer: Any, inputs: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, Any]:
        local = inputs[0]  # (L, B, H), or (L / ranks, B, H)
        hidden = local
        if split:
            hidden = gather_from_sequence_parallel_region(local, tensor_parallel_output_grad=False, group=tensor)
        weight = named.get("weight")
        head = LMHead(
            layer.weight if weight is None else weight,
            layer.bias,
            vocab_size,
            tensor if tensor.size() > 1 else None,
        )
        hidden = hidden.flatten(0, 1)
        if context.size() == 1:
            results.append(then(hidden.index_select(0, predicting), head))
        else:
            mine = owned.to(device)
            indices = mine.nonzero()[:, 0]
            own = hidden.index_select(0, predicting.index_select(0, indices))
            selected = hidden.new_zeros(len(mine), hidden.shape[1]).index_copy(0, indices, own)
            if torch.is_grad_enabled():
                results.append(then(selected, head, owned=mine))
            else:
                torch.distributed.all_reduce(selected, group=context)
                results.append(then(selected, head))
        return (local[-1:].detach(), *inputs[1:]), named

    handle = stage.output_layer.register_forward_pre_hook(hook, with_kwargs=True) if stage.post_process else None
    position_ids = torch.arange(ids.shape[1]).expand(ids.shape)
    if context.size() > 1:
        ids, position_ids = (take_part(x, context.rank(), context.size(), dim=1) for x in (ids, position_ids))
    try:
        output = model(input_ids=ids.to(device), position_ids=position_ids.to(device), attention_mask=None)
    finally:
        if handle:
            handle.remove()
    return output, results[0] if results else None


def row_multiple(stage: Any) -> int:
    """What the length of a row must be a multiple of: ranks of sequence parallelism have equal parts of it, those
    of context parallelism two chunks each."""
    tensor, context = stage.pg_collection.tp.size(), stage.pg_collection.cp.size()
    return (tensor if stage.config.sequence_parallel else 1) * (2 * context if context > 1 else 1)


def place_of(positions: Tensor, length: int, context: Any) -> tuple[Tensor, Bool[Tensor, " T"]]:
    """Of each position of rows of `length` tokens: its place on the rank that has it, and whether that is this
    one."""
    if context.size() == 1:
        return positions, torch.ones_like(positions, dtype=torch.bool)
    rank, place = owners(positions, length, context.size())
    return place, rank == context.rank()


def owned_tokens(model: Any, sequences: list[TokenSequence]) -> int:
    """How many of the supervised tokens' positions this rank has."""
    stage = unwrap_model(model)
    ids, _, positions = padded(sequences, 0, row_multiple(stage))
    return int(place_of(positions, ids.shape[1], stage.pg_collection.cp)[1].sum())
