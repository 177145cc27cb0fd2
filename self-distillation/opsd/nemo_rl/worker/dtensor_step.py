"""The step on NeMo-RL's DTensor worker (V1): FSDP2's mean of gradients, with our clipping and schedule.

Only torch is needed here, so that it can be tested without NeMo-RL; dtensor.py joins it to NeMo-RL's worker.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

from opsd.determinism import policy_mode
from opsd.hidden_states import LMHead
from opsd.kl import LogitTransform
from opsd.logits import find_logit_transform
from opsd.nemo_rl.worker.lm_head_hook import Result, forward, run_to_lm_head
from opsd.nemo_rl.worker.step import DistillationStep
from opsd.nemo_rl.worker.swap_weights import local_shard
from srt.common.packed_attention import PACKED
from srt.common.packing import set_attention
from srt.contract.layout import TokenSequence

_TRANSFORMS: WeakKeyDictionary[Any, LogitTransform] = WeakKeyDictionary()  # by model


class DTensorStep(DistillationStep):
    """Mixed into a worker with the attributes of NeMo-RL's DTensor workers. `max_grad_norm` None: no clipping.
    `packed`: the sequences of a pass share one row."""

    optimizer: torch.optim.Optimizer
    scheduler: Any
    dtype: torch.dtype
    dp_size: int
    dp_cp_mesh: DeviceMesh
    tp_mesh: DeviceMesh
    max_grad_norm: float | None
    packed = False

    def pack(self) -> None:
        """Share rows from now on; the models are known to support it. All ranks must call together."""
        self.logit_transform(self.model)  # is found with passes that are not packed
        set_attention(self.model, PACKED)
        self.packed = True

    def _run_to_lm_head(
        self,
        model: Any,
        sequences: list[TokenSequence],
        pad_id: int,
        then: Callable[[Float[Tensor, "T H"], LMHead], Result],
    ) -> Result:
        transform = self.logit_transform(model)
        return run_to_lm_head(model, sequences, pad_id, self._autocast_dtype, then, transform, self.packed)

    def logit_transform(self, model: Any) -> LogitTransform:
        """What the model does to its logits after the LM head, found on first use; all ranks must call together.

        Raises UserError for a model that is not supported.
        """
        if model not in _TRANSFORMS:
            call = partial(forward, model, autocast_dtype=self._autocast_dtype)
            _TRANSFORMS[model] = find_logit_transform(model, model.config.name_or_path, call)
        return _TRANSFORMS[model]

    def _set_training_mode(self) -> None:
        policy_mode(self.model)

    @property
    def _autocast_dtype(self) -> torch.dtype | None:
        return None if self.dtype == torch.float32 else self.dtype

    def _token_weight(self, tokens: int) -> float:
        # FSDP takes the mean of the ranks' gradients; the loss is a sum over all of them.
        return self.dp_size / tokens

    def _zero_gradients(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)

    def _apply_update(self) -> tuple[float, float]:
        add_partial_gradients(self.model, self.tp_mesh)
        grad_norm = clip_gradients(self.model, self.dp_cp_mesh, self.tp_mesh, self.max_grad_norm)
        lr = self.optimizer.param_groups[0]["lr"]
        if math.isfinite(grad_norm):
            self.optimizer.step()
            self.scheduler.step()
        return grad_norm, lr


@torch.no_grad()
def add_partial_gradients(model: Any, tp_mesh: DeviceMesh) -> None:
    """Sum the gradients of per-head norms over the tensor-parallel ranks, each of which has only a part.

    Every rank has a copy of these weights (Qwen3's q_norm, k_norm) and applies it to its own heads only: without
    this, the copies drift apart.
    """
    if tp_mesh.size() == 1:
        return
    config = model.config.get_text_config()
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    for name, parameter in model.named_parameters():
        is_head_norm = name.endswith(("q_norm.weight", "k_norm.weight")) and parameter.numel() == head_size
        if is_head_norm and parameter.grad is not None:
            torch.distributed.all_reduce(local_shard(parameter.grad), group=tp_mesh.get_group())


@torch.no_grad()
def clip_gradients(model: Any, dp_mesh: DeviceMesh, tp_mesh: DeviceMesh, max_norm: float | None) -> float:
    """The norm of the whole model's gradient, which is then scaled down to `max_norm` where it exceeds that.

    A parameter of which every tensor-parallel rank has a copy counts once.
    """
    with_gradient = [parameter for parameter in model.parameters() if parameter.grad is not None]
    # Of parameters that tensor parallelism splits, and of all others.
    squares = torch.zeros(2, device=model.device)
    for parameter in with_gradient:
        index = 0 if _is_split_over(parameter, "tp") else 1
        squares[index] += local_shard(parameter.grad).float().square().sum()
    torch.distributed.all_reduce(squares, group=dp_mesh.get_group())
    torch.distributed.all_reduce(squares[0], group=tp_mesh.get_group())
    norm = float(squares.sum().sqrt())
    if max_norm is not None and norm > max_norm:
        for parameter in with_gradient:
            local_shard(parameter.grad).mul_(max_norm / norm)
    return norm


def _is_split_over(parameter: Tensor, axis: str) -> bool:
    if not isinstance(parameter, DTensor):
        return False
    axes = parameter.device_mesh.mesh_dim_names or ()
    return axis in axes and parameter.placements[axes.index(axis)].is_shard()
