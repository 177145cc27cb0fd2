"""One optimizer step: score both sequences of every pair, take the exact KL, update the student."""

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.optim.lr_scheduler import LambdaLR

from opsd.config import RunConfig, kl_config
from opsd.engine import ScoredBatch, require_finite
from opsd.kl import KLOutput
from opsd.local.checkpoint import load_optimizer
from opsd.local.student import Student
from opsd.local.teacher import Teacher
from opsd.pair_kl import detach_to_cpu, pair_kl
from opsd.pairs import SequencePair, micro_batches
from opsd.timing import span
from srt.common.lr_schedule import lr_factor


@dataclass(frozen=True)
class OptimizerStepResult:
    """scored: micro-batches with their KL; grad_norm: before clipping; lr: the learning rate of this update."""

    scored: list[ScoredBatch]
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
        self.max_grad_norm = config.max_grad_norm or math.inf
        self.parameters = student.trained_parameters()
        device = student.model.device
        self.optimizer = torch.optim.AdamW(
            self.parameters,
            lr=config.lr,
            betas=(config.adam_beta1, config.adam_beta2),
            weight_decay=config.weight_decay,
            fused=device.type == "cuda",
        )
        factor = lr_factor(config.lr_schedule, config.warmup_steps, total_updates)
        self.scheduler = LambdaLR(self.optimizer, factor)
        if checkpoint:
            load_optimizer(checkpoint, self.optimizer, self.scheduler, device)

    def run(self, pairs: list[SequencePair]) -> OptimizerStepResult:
        """Raises UserError, before the weights are touched, when the gradient is not finite."""
        total_tokens = sum(len(pair.targets) for pair in pairs)
        scored = []
        for batch in micro_batches(pairs, self.tokens_per_micro_batch):
            scored.append((batch, self._accumulate_gradients(batch, 1 / total_tokens)))
        with span("update"):
            grad_norm = float(torch.nn.utils.clip_grad_norm_(self.parameters, self.max_grad_norm))
            require_finite(grad_norm)
            lr = self.optimizer.param_groups[0]["lr"]
            self.optimizer.step()
            self.scheduler.step()
            # 4 bytes per parameter that the sampler can use until the next update.
            self.optimizer.zero_grad(set_to_none=True)
        return OptimizerStepResult(scored, grad_norm, lr)

    @torch.no_grad()
    def score(self, pairs: list[SequencePair]) -> list[ScoredBatch]:
        """The KL of each pair, without an update."""
        batches = micro_batches(pairs, self.tokens_per_micro_batch)
        return [(batch, detach_to_cpu(self._kl(batch, 1.0))) for batch in batches]

    def _accumulate_gradients(self, batch: list[SequencePair], token_weight: float) -> KLOutput:
        """Forward and backward passes of one micro-batch.

        A function of its own, so that the gradients which the KL formed, [V, H] among them, are freed before the
        next micro-batch's forward pass.
        """
        output = self._kl(batch, token_weight)
        with span("student"):
            output.loss.backward()
        return detach_to_cpu(output)

    def _kl(self, batch: list[SequencePair], token_weight: float) -> KLOutput:
        with span("teacher"):
            teacher_hidden = self.teacher.hidden([pair.teacher for pair in batch], self.pad_id)  # (T, H)
        with span("student"):
            sequences = [pair.student for pair in batch]
            return pair_kl(
                self.student.hidden(sequences, self.pad_id),  # (T, H)
                self.student.lm_head(),
                teacher_hidden,
                self.teacher.lm_head(),
                sequences,
                token_weight,
                self.kl_config,
                self.grad_eps,
            )
