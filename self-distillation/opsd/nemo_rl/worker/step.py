"""A step inside a policy worker: score the teacher's rows with its weights in place, then make the updates.

It is the same one for both of NeMo-RL's training backends; what they do differently is behind a few methods
(dtensor_step.py, megatron_step.py). Only torch is needed here.
"""

import contextlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from opsd.kl import KLConfig, KLOutput, exact_kl
from opsd.nemo_rl.micro_batches import PairIds, RankUpdate
from opsd.nemo_rl.worker.lm_head_hook import Head, Result
from opsd.timing import timed
from srt.contract.layout import TokenSequence


@dataclass(frozen=True)
class UpdateResult:
    """`outputs`: the KL of each of the rank's micro-batches, on the CPU; None for an empty one.

    `grad_norm`: of all ranks' gradient, before clipping; not finite: the update was not made, nor any after it.
    `lr`: with which it was made.
    """

    outputs: list[KLOutput | None]
    grad_norm: float
    lr: float


@dataclass(frozen=True)
class StepResult:
    """`seconds`: of this rank, by what they went to. `peak_memory`: bytes that torch held at most on its GPU."""

    updates: list[UpdateResult]
    seconds: dict[str, float]
    peak_memory: int


class DistillationStep(ABC):
    """Mixed into a worker with a `model`; the methods that a backend defines come first."""

    model: Any

    @abstractmethod
    def teacher_in_place(self) -> contextlib.AbstractContextManager[Any]:
        """The teacher's model, for the block."""

    @abstractmethod
    def _to_head(
        self,
        model: Any,
        rows: list[TokenSequence],
        pad_id: int,
        then: Callable[[Float[Tensor, "T H"], Head], Result],
    ) -> Result:
        """then(hidden, head), as `at_head.run_to_head`."""

    @abstractmethod
    def _token_weight(self, tokens: int) -> float:
        """What each of the update's `tokens` weighs on a rank, for the loss to be their mean over all ranks."""

    @abstractmethod
    def _zero_gradients(self) -> None: ...

    @abstractmethod
    def _make_update(self) -> tuple[float, float]:
        """From gradients of each rank to new weights: the gradient's norm before clipping, and the update's LR.

        A norm that is not finite: nothing was changed.
        """

    def distill(self, updates: list[RankUpdate], options: KLConfig, grad_eps: float, pad_id: int) -> StepResult:
        """The updates of one step, one after the other, against one teacher.

        The teacher scores everything first: it takes the student's place on the GPU, once in a step. Its hidden
        states stay there, bf16: 128 rows of 8k tokens are 5 GiB for a model 2560 wide, over all ranks.
        """
        seconds: dict[str, float] = {}
        on_gpu = next(self.model.parameters()).device.type == "cuda"
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        with timed(seconds, "teacher"), self.teacher_in_place() as teacher:
            hidden, head = self._teacher_hidden(teacher, updates, pad_id)
        self.model.train()
        results = []
        for update, teacher_hidden in zip(updates, hidden, strict=True):
            results.append(self._update(update, teacher_hidden, head, options, grad_eps, pad_id, seconds))
            if not math.isfinite(results[-1].grad_norm):
                break
        self._zero_gradients()
        peak = torch.cuda.max_memory_allocated() if on_gpu else 0
        del hidden, head
        if on_gpu:
            torch.cuda.empty_cache()  # what torch's pool keeps is missing where vLLM wakes up
        return StepResult(results, seconds, peak)

    @torch.no_grad()
    def _teacher_hidden(
        self, teacher: Any, updates: list[RankUpdate], pad_id: int
    ) -> tuple[list[list[Float[Tensor, "T H"]]], Head]:
        """The teacher's hidden states of every micro-batch of every update, and its head."""
        teacher.eval()
        heads: list[Head] = []

        def keep(hidden: Tensor, head: Head) -> Tensor:
            if not heads:
                heads.append(head.copy())
            return hidden.to(head.weight.dtype)

        def score(batch: list[PairIds]) -> Tensor:
            rows = [pair.teacher for pair in batch or alone(pad_id)]
            return self._to_head(teacher, rows, pad_id, keep)

        hidden = [[score(batch) for batch in update.micro_batches] for update in updates]
        return hidden, heads[0]

    def _update(
        self,
        update: RankUpdate,
        teacher_hidden: list[Float[Tensor, "T H"]],
        teacher_head: Head,
        options: KLConfig,
        grad_eps: float,
        pad_id: int,
        seconds: dict[str, float],
    ) -> UpdateResult:
        """One optimizer step; all data-parallel ranks make it together."""
        outputs: list[KLOutput | None] = []
        weight = self._token_weight(update.tokens)
        self._zero_gradients()
        for batch, hidden in zip(update.micro_batches, teacher_hidden, strict=True):
            with timed(seconds, "student"):
                pairs, scale = (batch, weight) if batch else (alone(pad_id), 0.0)
                rows = [pair.student for pair in pairs]
                compare = against_teacher(hidden, teacher_head, rows, scale, options, grad_eps)
                output = self._to_head(self.model, rows, pad_id, compare)
                output.loss.backward()
            outputs.append(on_cpu(output) if batch else None)
        with timed(seconds, "update"):
            grad_norm, lr = self._make_update()
        return UpdateResult(outputs, grad_norm, lr)


def against_teacher(
    teacher_hidden: Float[Tensor, "T H"],
    teacher_head: Head,
    rows: list[TokenSequence],
    weight: float,
    options: KLConfig,
    grad_eps: float,
) -> Callable[[Float[Tensor, "T H"], Head], KLOutput]:
    """For `_to_head` of the student's `rows`: their exact KL, `weight` for each token, `loss` differentiable."""
    targets = torch.tensor([token for row in rows for token in row.ids[row.start :]], device=teacher_hidden.device)

    def compare(student_hidden: Tensor, head: Head) -> KLOutput:
        return exact_kl(
            student_hidden.to(head.weight.dtype),  # as the head itself would, under autocast
            head.weight,
            teacher_hidden,
            teacher_head.weight,
            student_hidden.new_full((len(targets),), weight, dtype=torch.float32),
            config=options,
            targets=targets,
            student_bias=head.bias,
            teacher_bias=teacher_head.bias,
            # Heads may be padded beyond the tokenizer, each model's differently.
            vocab_size=min(head.vocab_size, teacher_head.vocab_size),
            grad_eps=grad_eps,
            group=head.group,
        )

    return compare


def alone(pad_id: int) -> list[PairIds]:
    """Two rows of one token for a rank that has nothing to do in a round; they weigh nothing."""
    row = TokenSequence([pad_id, pad_id], start=1)
    return [PairIds(row, row)]


def on_cpu(output: KLOutput) -> KLOutput:
    tensors = {field.name: getattr(output, field.name) for field in fields(output)}
    return replace(output, **{name: x.detach().cpu() for name, x in tensors.items() if isinstance(x, Tensor)})
