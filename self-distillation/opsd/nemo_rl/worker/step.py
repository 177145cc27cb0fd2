"""A step inside a policy worker: score the teacher's sequences with its weights, then make the updates.

Both of NeMo-RL's training backends share it; what they do differently is behind a few methods (dtensor_step.py,
megatron_step.py). Only torch is needed here.
"""

import contextlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from opsd.hidden_states import LMHead
from opsd.kl import KLConfig, KLOutput
from opsd.nemo_rl.micro_batches import PairIds, RankUpdate
from opsd.nemo_rl.worker.lm_head_hook import Result
from opsd.nemo_rl.worker.swap_weights import reshard
from opsd.pair_kl import detach_to_cpu, pair_kl
from opsd.timing import record_spans, span
from srt.contract.layout import TokenSequence

# What is done with a micro-batch: its sequences, and then(hidden, head) as in lm_head_hook.run_to_lm_head.
Pass = tuple[list[TokenSequence], Callable[[Float[Tensor, "T H"], LMHead], Result]]


@dataclass(frozen=True)
class RankUpdateResult:
    """`outputs`: the KL of each of the rank's micro-batches, on the CPU; None for an empty one.

    `grad_norm`: of the gradient over all ranks, before clipping; if it is not finite, neither this update nor any
    after it was made. `lr`: the learning rate of this update.
    """

    outputs: list[KLOutput | None]
    grad_norm: float
    lr: float


@dataclass(frozen=True)
class RankStepResult:
    """`seconds`: this rank's spans. `peak_memory`: the most bytes that torch held on its GPU."""

    updates: list[RankUpdateResult]
    seconds: dict[str, float]
    peak_memory: int


class DistillationStep(ABC):
    """Mixed into a worker with a `model`; the methods that a backend defines come first."""

    model: Any

    @abstractmethod
    def teacher_swapped_in(self) -> contextlib.AbstractContextManager[Any]:
        """The teacher's model, for the block."""

    @abstractmethod
    def _run_to_lm_head(
        self,
        model: Any,
        sequences: list[TokenSequence],
        pad_id: int,
        then: Callable[[Float[Tensor, "T H"], LMHead], Result],
    ) -> Result:
        """then(hidden, head); see lm_head_hook.run_to_lm_head."""

    @abstractmethod
    def _token_weight(self, tokens: int) -> float:
        """The weight of each of the update's `tokens` on a rank that makes the loss their mean over all ranks."""

    @abstractmethod
    def _set_training_mode(self) -> None:
        """The model as it is trained: with gradients, and computing what it computes when it samples."""

    @abstractmethod
    def _zero_gradients(self) -> None: ...

    @abstractmethod
    def _apply_update(self) -> tuple[float, float]:
        """From each rank's gradients to new weights: the gradient norm before clipping, and the update's LR.

        A norm that is not finite means that nothing was changed.
        """

    def distill(
        self, updates: list[RankUpdate], kl_config: KLConfig, grad_eps: float, pad_id: int
    ) -> RankStepResult:
        """The updates of one step, one after the other, against one teacher.

        The teacher scores everything first: it takes the student's place on the GPU once per step. Its hidden
        states stay there in bf16: 128 sequences of 8k tokens are 5 GiB for a model of width 2560, over all ranks.
        """
        on_gpu = next(self.model.parameters()).device.type == "cuda"
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        with record_spans() as seconds:
            results = self._make_updates(updates, kl_config, grad_eps, pad_id)
        peak_memory = torch.cuda.max_memory_allocated() if on_gpu else 0
        if on_gpu:
            torch.cuda.empty_cache()  # vLLM wakes up in the memory that torch's pool would keep
        return RankStepResult(results, seconds, peak_memory)

    @torch.no_grad()
    def score(self, update: RankUpdate, kl_config: KLConfig, pad_id: int) -> list[KLOutput | None]:
        """The KL of each of the rank's micro-batches, on the CPU; no update is made."""
        with self.teacher_swapped_in() as teacher:
            (hidden,), head = self._teacher_hidden(teacher, [update], pad_id)
        self._set_training_mode()  # as in an update, so that the passes are the same
        passes = self._student_passes(update, hidden, head, 1.0, kl_config, 0.0, pad_id)
        outputs = self._forward(self.model, passes, pad_id)
        reshard(self.model)  # no backward pass follows
        return self._report(update, [None if output is None else detach_to_cpu(output) for output in outputs])

    def _make_updates(
        self, updates: list[RankUpdate], kl_config: KLConfig, grad_eps: float, pad_id: int
    ) -> list[RankUpdateResult]:
        with span("teacher"), self.teacher_swapped_in() as teacher:
            hidden, head = self._teacher_hidden(teacher, updates, pad_id)
        self._set_training_mode()
        results = []
        for update, teacher_hidden in zip(updates, hidden, strict=True):
            results.append(self._make_update(update, teacher_hidden, head, kl_config, grad_eps, pad_id))
            if not math.isfinite(results[-1].grad_norm):
                break
        self._zero_gradients()
        return results

    @torch.no_grad()
    def _teacher_hidden(self, teacher: Any, updates: list[RankUpdate], pad_id: int) -> tuple[list[list[Any]], Any]:
        """The teacher's hidden states (T, H) of every micro-batch of every update, and its LM head; None on a rank
        that has another part of the model (see _forward)."""
        teacher.eval()
        heads: list[LMHead] = []

        def keep(hidden: Tensor, head: LMHead) -> Tensor:
            if not heads:
                heads.append(head.detached_copy())
            return hidden.to(head.weight.dtype)

        passes = [
            ([pair.teacher for pair in batch or dummy_pairs(pad_id)], keep)
            for update in updates
            for batch in update.micro_batches
        ]
        scored = iter(self._forward(teacher, passes, pad_id))
        hidden = [[next(scored) for _ in update.micro_batches] for update in updates]
        return hidden, heads[0] if heads else None

    def _make_update(
        self,
        update: RankUpdate,
        teacher_hidden: list[Any],
        teacher_head: Any,
        kl_config: KLConfig,
        grad_eps: float,
        pad_id: int,
    ) -> RankUpdateResult:
        """One optimizer step; all data-parallel ranks make it together."""
        weight = self._token_weight(update.tokens)
        passes = self._student_passes(update, teacher_hidden, teacher_head, weight, kl_config, grad_eps, pad_id)
        self._zero_gradients()
        outputs = self._forward_backward(passes, pad_id)
        with span("update"):
            grad_norm, lr = self._apply_update()
        return RankUpdateResult(self._report(update, outputs), grad_norm, lr)

    def _student_passes(
        self,
        update: RankUpdate,
        teacher_hidden: list[Any],
        teacher_head: Any,
        token_weight: float,
        kl_config: KLConfig,
        grad_eps: float,
        pad_id: int,
    ) -> list[Pass]:
        """The KL of each micro-batch; one without pairs is a dummy with zero loss weight."""
        passes: list[Pass] = []
        for batch, hidden in zip(update.micro_batches, teacher_hidden, strict=True):
            sequences = [pair.student for pair in batch or dummy_pairs(pad_id)]
            kl_to_teacher = partial(
                pair_kl,
                teacher_hidden=hidden,
                teacher_head=teacher_head,
                sequences=sequences,
                token_weight=token_weight if batch else 0.0,
                kl_config=kl_config,
                grad_eps=grad_eps,
            )
            passes.append((sequences, kl_to_teacher))
        return passes

    def _forward(self, model: Any, passes: list[Pass], pad_id: int) -> list[Any]:
        """then(hidden, head) of each micro-batch, without a backward pass. None on a rank that has another part
        of the model than the LM head."""
        return [self._run_to_lm_head(model, sequences, pad_id, then) for sequences, then in passes]

    def _forward_backward(self, passes: list[Pass], pad_id: int) -> list[KLOutput | None]:
        """The KL of each micro-batch, on the CPU, and the gradients of all of them in the weights."""
        outputs = []
        for sequences, kl_to_teacher in passes:
            with span("student"):
                outputs.append(self._accumulate_gradients(sequences, pad_id, kl_to_teacher))
        return outputs

    def _report(self, update: RankUpdate, outputs: list[KLOutput | None]) -> list[KLOutput | None]:
        """Of an update's micro-batches, without the dummies'."""
        return [output if batch else None for batch, output in zip(update.micro_batches, outputs, strict=True)]

    def _accumulate_gradients(
        self,
        sequences: list[TokenSequence],
        pad_id: int,
        kl_to_teacher: Callable[[Float[Tensor, "T H"], LMHead], KLOutput],
    ) -> KLOutput:
        """Forward and backward passes of one micro-batch.

        A function of its own, so that the gradients which the KL formed, [V, H] among them, are freed before the
        next micro-batch's forward pass.
        """
        output = self._run_to_lm_head(self.model, sequences, pad_id, kl_to_teacher)
        output.loss.backward()
        return detach_to_cpu(output)


def dummy_pairs(pad_id: int) -> list[PairIds]:
    """Two sequences of one token, with zero loss weight, for a rank without a micro-batch in a round."""
    sequence = TokenSequence([pad_id, pad_id], start=1)
    return [PairIds(sequence, sequence)]
