"""One optimizer step: score both sequences of every pair, take the exact KL, update the student."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from opsd.config import RunConfig, kl_config, optimizer_config
from opsd.cpu_offload import OffGpu
from opsd.engine import require_finite
from opsd.hidden_states import LMHead
from opsd.kl import KLOutput
from opsd.local.checkpoint import load_optimizer
from opsd.local.student import Student
from opsd.local.teacher import Teacher
from opsd.pair_kl import detach_to_cpu, pair_kl
from opsd.pairs import SequencePair, micro_batches
from opsd.timing import span


@dataclass(frozen=True)
class OptimizerStepResult:
    """scored: micro-batches with their KL; grad_norm: before clipping; lr: the learning rate of this update."""

    scored: list[tuple[list[SequencePair], KLOutput]]
    grad_norm: float
    lr: float


class TeacherScore(NamedTuple):
    """The teacher's hidden states of a micro-batch, and its LM head."""

    hidden: Float[Tensor, "T H"]
    head: LMHead


class OptimizerStep:
    """Optimizer and learning-rate schedule of one student.

    The sum of the KL over tokens is divided by the number of tokens in the update, the only denominator: it scales
    the gradient, which clipping and Adam undo, and leaves its direction alone.
    """

    def __init__(
        self,
        config: RunConfig,
        student: Student,
        teacher: Teacher,
        pad_id: int,
        total_updates: int,
        checkpoint: Path | None,
        offload: bool = False,
    ):
        """`offload`: keep Adam's moments, and a teacher of its own, in host memory while they are not used."""
        self.offload = offload
        self.student = student
        self.teacher = teacher
        self.kl_config = kl_config(config)
        self.grad_eps = config.kl_grad_eps
        self.pad_id = pad_id
        self.tokens_per_micro_batch = config.tokens_per_micro_batch
        self.parameters = student.trained_parameters()
        device = student.model.device
        self.optimizer_config = optimizer_config(config, total_updates)
        self.optimizer = self.optimizer_config.adamw(self.parameters, fused=device.type == "cuda")
        self.scheduler = self.optimizer_config.lr_scheduler(self.optimizer)
        if checkpoint:
            load_optimizer(checkpoint, self.optimizer, self.scheduler, device)
        self.moments = OffGpu(self._moments, offload)

    def run(self, pairs: list[SequencePair]) -> OptimizerStepResult:
        """Raises UserError, before the weights are touched, when the gradient is not finite."""
        total_tokens = sum(len(pair.targets) for pair in pairs)
        batches = list(micro_batches(pairs, self.tokens_per_micro_batch))
        scores = self._score_all(batches) if self.offload else map(self._score, batches)
        scored = []
        for batch in batches:
            scored.append((batch, self._accumulate_gradients(batch, next(scores), 1 / total_tokens)))
        with span("update"):
            grad_norm = self.optimizer_config.clip(self.parameters)
            require_finite(grad_norm)
            lr = self.optimizer.param_groups[0]["lr"]
            with self.moments.present():
                self.optimizer.step()
            self.scheduler.step()
            # 4 bytes per parameter that the sampler can use until the next update.
            self.optimizer.zero_grad(set_to_none=True)
        return OptimizerStepResult(scored, grad_norm, lr)

    def _score_all(self, batches: list[list[SequencePair]]) -> Iterator[TeacherScore]:
        """The teacher's scores of all micro-batches, so that it is brought to the GPU once for an update."""
        with self.teacher.present():
            scores = [self._score(batch) for batch in batches]
            # Its own head leaves the GPU with it.
            head = scores[0].head.detached_copy()
        return iter([TeacherScore(score.hidden.to(head.weight.dtype), head) for score in scores])

    def _score(self, batch: list[SequencePair]) -> TeacherScore:
        with span("teacher"):
            hidden = self.teacher.hidden([pair.teacher for pair in batch], self.pad_id)
            return TeacherScore(hidden, self.teacher.lm_head())

    def _moments(self) -> dict[str, Tensor]:
        """Adam's state on the student's device, by name."""
        return {
            f"{index} {name}": value
            for index, (parameter, state) in enumerate(self.optimizer.state.items())
            for name, value in state.items()
            if isinstance(value, Tensor) and value.device == parameter.device
        }

    def _accumulate_gradients(
        self, batch: list[SequencePair], teacher: TeacherScore, token_weight: float
    ) -> KLOutput:
        """Forward and backward passes of one micro-batch.

        A function of its own, so that the gradients which the KL formed, [V, H] among them, are freed before the
        next micro-batch's forward pass.
        """
        with span("student"):
            sequences = [pair.student for pair in batch]
            output = pair_kl(
                self.student.hidden(sequences, self.pad_id),  # (T, H)
                self.student.lm_head(),
                teacher.hidden,
                teacher.head,
                sequences,
                token_weight,
                self.kl_config,
                self.grad_eps,
            )
            output.loss.backward()
        return detach_to_cpu(output)
