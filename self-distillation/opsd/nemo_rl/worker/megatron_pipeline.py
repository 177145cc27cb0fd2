"""Micro-batches through the stages of a pipeline, by Megatron-Core's schedule (one forward, one backward).

The hidden states before the LM head are on the last stage, and so are the teacher's, its head and the KL. Rows of
different micro-batches have different lengths, so each stage sends the shape before the tensor.
"""

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from megatron.core.pipeline_parallel import get_forward_backward_func
from megatron.core.utils import get_model_config
from torch import Tensor

from opsd.kl import KLOutput
from opsd.nemo_rl.worker.megatron_lm_head_hook import run_stage
from opsd.nemo_rl.worker.step import Pass
from opsd.pair_kl import detach_to_cpu


def forward(model: Any, passes: list[Pass], pad_id: int, vocab_size: int) -> list[Any]:
    """then(hidden, head) of each micro-batch on the last stage, None on others."""
    return _run(model, passes, pad_id, vocab_size, forward_only=True)


def forward_backward(model: Any, passes: list[Pass], pad_id: int, vocab_size: int) -> list[KLOutput | None]:
    """The KL of each micro-batch on the last stage, on the CPU; None on others. Gradients are added up on all."""
    return _run(model, passes, pad_id, vocab_size, forward_only=False)


def _run(model: Any, passes: list[Pass], pad_id: int, vocab_size: int, forward_only: bool) -> list[Any]:
    def one(passes: Iterator[Pass], model: Any) -> tuple[Tensor, Callable[..., Any]]:
        sequences, then = next(passes)
        output, result = run_stage(model, sequences, pad_id, vocab_size, then)
        return output, partial(_only, result) if forward_only else partial(_loss, result)

    with _settings(get_model_config(model)):
        results = get_forward_backward_func()(
            forward_step_func=one,
            data_iterator=iter(passes),
            model=model,
            num_microbatches=len(passes),
            seq_length=1,  # shapes are sent with the tensors
            micro_batch_size=1,
            forward_only=forward_only,
            collect_non_loss_data=forward_only,
        )
    return results or [None] * len(passes)


def _only(result: Any, output: Tensor, non_loss_data: bool) -> Any:
    return result


def _loss(result: Any, output: Tensor) -> tuple[Tensor, Tensor, KLOutput]:
    """The loss, a number of tokens that is not used, and what is kept: not the gradients that the KL formed."""
    return result.loss, torch.zeros((), dtype=torch.int), detach_to_cpu(result)


@contextlib.contextmanager
def _settings(config: Any) -> Iterator[None]:
    """Gradients are exchanged after the schedule (megatron_step.py), and bf16 needs no scale of the loss."""
    ours = {"variable_seq_lengths": True, "finalize_model_grads_func": None, "grad_scale_func": None}
    before = {name: getattr(config, name) for name in ours}
    for name, value in ours.items():
        setattr(config, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(config, name, value)
