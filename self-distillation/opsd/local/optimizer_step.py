"""One optimizer step: score both sequences of every pair, take the exact KL, update the student."""

from dataclasses import dataclass
from pathlib import Path

from opsd.config import RunConfig, kl_config, optimizer_config
from opsd.engine import require_finite
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
    ):
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

    def run(self, pairs: list[SequencePair]) -> OptimizerStepResult:
        """Raises UserError, before the weights are touched, when the gradient is not finite."""
        total_tokens = sum(len(pair.targets) for pair in pairs)
        scored = []
        for batch in micro_batches(pairs, self.tokens_per_micro_batch):
            scored.append((batch, self._accumulate_gradients(batch, 1 / total_tokens)))
        with span("update"):
            grad_norm = self.optimizer_config.clip(self.parameters)
            require_finite(grad_norm)
            lr = self.optimizer.param_groups[0]["lr"]
            self.optimizer.step()
            self.scheduler.step()
            # 4 bytes per parameter that the sampler can use until the next update.
            self.optimizer.zero_grad(set_to_none=True)
        return OptimizerStepResult(scored, grad_norm, lr)

    def _accumulate_gradients(self, batch: list[SequencePair], token_weight: float) -> KLOutput:
        """Forward and backward passes of one micro-batch.

        A function of its own, so that the gradients which the KL formed, [V, H] among them, are freed before the
        next micro-batch's forward pass.
        """
        with span("teacher"):
            teacher_hidden = self.teacher.hidden([pair.teacher for pair in batch], self.pad_id)  # (T, H)
        with span("student"):
            sequences = [pair.student for pair in batch]
            output = pair_kl(
                self.student.hidden(sequences, self.pad_id),  # (T, H)
                self.student.lm_head(),
                teacher_hidden,
                self.teacher.lm_head(),
                sequences,
                token_weight,
                self.kl_config,
                self.grad_eps,
            )
            output.loss.backward()
        return detach_to_cpu(output)
