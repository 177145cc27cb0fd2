"""The step on Megatron-Core: its DDP's gradient buffers, its optimizer and its schedule.

Only Megatron-Core is needed here, so that it can be tested without a GPU; megatron.py joins it to NeMo-RL's
worker.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from megatron.core.distributed import finalize_model_grads
from megatron.core.utils import unwrap_model

from opsd.kl import KLOutput
from opsd.nemo_rl.micro_batches import RankUpdate
from opsd.nemo_rl.worker import megatron_pipeline
from opsd.nemo_rl.worker.context_parallel import sum_outputs
from opsd.nemo_rl.worker.lm_head_hook import Result
from opsd.nemo_rl.worker.megatron_lm_head_hook import owned_tokens, run_to_output_layer
from opsd.nemo_rl.worker.step import DistillationStep, Pass
from opsd.timing import span
from srt.contract.layout import TokenSequence


class MegatronStep(DistillationStep):
    """Mixed into a worker with the attributes of NeMo-RL's Megatron worker: `model` (a GPTModel in Megatron's
    DDP), `optimizer` and `scheduler`; and with `vocab_size`, without padding, and `schedule_increment`, the
    schedule's steps per update.

    Each rank accumulates the gradients of all micro-batches before they are exchanged, so the DDP must not overlap
    the two (overlap_grad_reduce), and its mean must be off (calculate_per_token_loss).
    """

    optimizer: Any
    scheduler: Any
    vocab_size: int
    schedule_increment: int

    def _run_to_lm_head(
        self,
        model: Any,
        sequences: list[TokenSequence],
        pad_id: int,
        then: Callable[..., Result],
    ) -> Result:
        return run_to_output_layer(model, sequences, pad_id, self.vocab_size, then)

    @property
    def _groups(self) -> Any:
        return unwrap_model(self.model).pg_collection

    def _forward(self, model: Any, passes: list[Pass], pad_id: int) -> list[Any]:
        if self._groups.pp.size() == 1:
            return super()._forward(model, passes, pad_id)
        return megatron_pipeline.forward(model, passes, pad_id, self.vocab_size)

    def _forward_backward(self, passes: list[Pass], pad_id: int) -> list[KLOutput | None]:
        if self._groups.pp.size() == 1:
            outputs = super()._forward_backward(passes, pad_id)
        else:
            with span("student"):
                outputs = megatron_pipeline.forward_backward(self.model, passes, pad_id, self.vocab_size)
        context, own = self._groups.cp, [output for output in outputs if output is not None]
        if context.size() == 1 or not own:
            return outputs
        owned = [owned_tokens(self.model, sequences) for sequences, _ in passes]
        return list(sum_outputs(own, owned, context, next(self.model.parameters()).device))

    def _report(self, update: RankUpdate, outputs: list[KLOutput | None]) -> list[KLOutput | None]:
        """The same on all stages: the driver asks the first."""
        reported = [super()._report(update, outputs)]
        pipeline = self._groups.pp
        if pipeline.size() > 1:
            torch.distributed.broadcast_object_list(reported, group_src=pipeline.size() - 1, group=pipeline)
        return reported[0]

    def _token_weight(self, tokens: int) -> float:
        # With calculate_per_token_loss, Megatron's DDP sums the ranks' gradients, as the loss is a sum over them.
        return 1.0 / tokens

    def _set_training_mode(self) -> None:
        # Megatron recomputes activations in training mode only. Dropout is off (srt/common/dropout.py), and
        # models with experts are refused.
        self.model.train()

    def _zero_gradients(self) -> None:
        self.model.zero_grad_buffer()
        self.optimizer.zero_grad()

    def _apply_update(self) -> tuple[float, float]:
        # Sums over data-parallel ranks and, over tensor-parallel ones, the gradients of weights that each rank
        # applies to some positions (layer norms under sequence parallelism) or some heads (norms of queries and
        # keys).
        finalize_model_grads([self.model])
        # The optimizer looks for norms that are not finite with fp16 only; with bf16 it would apply them.
        self.optimizer.prepare_grads()
        grad_norm = float(self.optimizer.get_grad_norm())
        lr = self.optimizer.param_groups[0]["lr"]
        if math.isfinite(grad_norm):
            self.optimizer.step()
            self.scheduler.step(increment=self.schedule_increment)
        return grad_norm, lr
