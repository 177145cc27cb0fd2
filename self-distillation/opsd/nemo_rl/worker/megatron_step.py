"""The step on Megatron-Core: its DDP's gradient buffers, its optimizer and its schedule.

Only Megatron-Core is needed here, so that it can be tested without a GPU; megatron_worker.py joins it to NeMo-RL's
worker. It has run on CPUs with Megatron's own layers, never on a GPU and never with Transformer Engine's.
"""

import math
from collections.abc import Callable
from typing import Any

from jaxtyping import Float
from megatron.core.distributed import finalize_model_grads
from torch import Tensor

from opsd.nemo_rl.worker.lm_head_hook import Head, Result
from opsd.nemo_rl.worker.megatron_lm_head_hook import run_to_output_layer
from opsd.nemo_rl.worker.step import DistillationStep
from srt.contract.layout import TokenSequence


class MegatronStep(DistillationStep):
    """Mixed into a worker that has what NeMo-RL's Megatron worker has: `model` (a GPTModel in Megatron's DDP),
    `optimizer`, `scheduler`; and `vocab_size`, without padding, and `schedule_increment`, the schedule's steps in
    an update.

    The gradients of all micro-batches are collected on each rank before they are exchanged, so the DDP must not
    overlap the two (overlap_grad_reduce), and its mean must be off (calculate_per_token_loss).
    """

    vocab_size: int
    schedule_increment: int

    def _to_head(
        self,
        model: Any,
        rows: list[TokenSequence],
        pad_id: int,
        then: Callable[[Float[Tensor, "T H"], Head], Result],
    ) -> Result:
        return run_to_output_layer(model, rows, pad_id, self.vocab_size, then)

    def _token_weight(self, tokens: int) -> float:
        # With calculate_per_token_loss, Megatron's DDP sums the ranks' gradients, as the loss is a sum over them.
        return 1.0 / tokens

    def _zero_gradients(self) -> None:
        self.model.zero_grad_buffer()
        self.optimizer.zero_grad()

    def _make_update(self) -> tuple[float, float]:
        # The sum over data-parallel ranks; and, over tensor-parallel ones, the gradients of what each applies to a
        # part of the positions (layer norms under sequence parallelism) or of the heads (norms of queries, keys).
        finalize_model_grads([self.model])
        # The optimizer would make an update of a norm that is not finite: it looks for that with fp16 only.
        self.optimizer.prepare_grads()
        grad_norm = float(self.optimizer.get_grad_norm())
        lr = self.optimizer.param_groups[0]["lr"]
        if math.isfinite(grad_norm):
            self.optimizer.step()
            self.scheduler.step(increment=self.schedule_increment)
        return grad_norm, lr
