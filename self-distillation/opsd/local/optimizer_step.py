"""The student's turn to learn: score both rows of every pair, take the exact KL, make one optimizer step."""

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import get_scheduler

from opsd.config import DistillConfig
from opsd.hidden_states import head, predicting_hidden
from opsd.kl import KLConfig, KLOutput, exact_kl
from opsd.local.checkpoint import load_optimizer
from opsd.local.student import Student
from opsd.local.teacher import Teacher
from opsd.metrics import StepMetrics
from opsd.pairs import SequencePair, micro_batches
from opsd.timing import timed
from srt.common.errors import UserError


@dataclass(frozen=True)
class PairWithKL:
    """A pair that was trained on, and the KL of each of its tokens, nats."""

    pair: SequencePair
    token_kl: list[float]


class Updates:
    """Optimizer and schedule over one student; `update` is one step of them.

    The sum of the KL over tokens is divided by the number of tokens of the update, the one denominator: it
    changes the gradient's length, which clipping and Adam undo, and not its direction.
    """

    def __init__(
        self,
        config: DistillConfig,
        options: KLConfig,
        student: Student,
        teacher: Teacher,
        pad_id: int,
        total_updates: int,
        checkpoint: Path | None,
    ):
        self.student = student
        self.teacher = teacher
        self.options = options
        self.grad_eps = config.kl_grad_eps
        self.pad_id = pad_id
        self.tokens_per_micro_batch = config.tokens_per_micro_batch
        self.max_grad_norm = config.max_grad_norm or math.inf
        self.trained = student.trained()
        device = student.model.device
        self.optimizer = torch.optim.AdamW(
            self.trained,
            lr=config.lr,
            betas=(config.adam_beta1, config.adam_beta2),
            weight_decay=config.weight_decay,
            fused=device.type == "cuda",
        )
        self.scheduler = get_scheduler(config.lr_schedule, self.optimizer, config.warmup_steps, total_updates)
        self.lr = math.nan  # with which the last update was made
        if checkpoint:
            load_optimizer(checkpoint, self.optimizer, self.scheduler, device)

    def update(
        self, pairs: list[SequencePair], metrics: StepMetrics, seconds: dict[str, float]
    ) -> tuple[float, list[PairWithKL]]:
        """One optimizer step; the gradient's norm before clipping, and what each token cost.

        Raises UserError, before the weights are touched, when the gradient is not finite.
        """
        denominator = sum(len(pair.targets) for pair in pairs)
        scored: list[PairWithKL] = []
        self.optimizer.zero_grad(set_to_none=True)
        for batch in micro_batches(pairs, self.tokens_per_micro_batch):
            with timed(seconds, "teacher"):
                teacher_hidden = self.teacher.hidden([pair.teacher for pair in batch], self.pad_id)  # (T, H)
            with timed(seconds, "student"):
                output = self._kl(batch, teacher_hidden, 1 / denominator)
                output.loss.backward()
            metrics.add(batch, output)
            token_kl = output.token_kl.cpu().split([len(pair.targets) for pair in batch])
            scored += [PairWithKL(pair, kl.tolist()) for pair, kl in zip(batch, token_kl, strict=True)]
        with timed(seconds, "update"):
            grad_norm = float(torch.nn.utils.clip_grad_norm_(self.trained, self.max_grad_norm))
            if not math.isfinite(grad_norm):
                raise UserError(
                    f"the gradient's norm is {grad_norm}: the update was not made, and the newest checkpoint is "
                    "from before; a lower LR in a new OUTPUT_DIR is the usual remedy"
                )
            self.lr = self.optimizer.param_groups[0]["lr"]
            self.optimizer.step()
            self.scheduler.step()
        return grad_norm, scored

    def _kl(self, batch: list[SequencePair], teacher_hidden: Float[Tensor, "T H"], weight: float) -> KLOutput:
        rows = [pair.student for pair in batch]
        student_hidden = predicting_hidden(self.student.model, rows, self.pad_id)  # (T, H)
        student_head, student_bias = head(self.student.model)  # (V, H), (V)
        teacher_head, teacher_bias = self.teacher.head()
        targets = torch.tensor([token for pair in batch for token in pair.targets], device=student_hidden.device)
        return exact_kl(
            student_hidden.to(student_head.dtype),
            student_head,
            teacher_hidden.to(teacher_head.dtype),
            teacher_head,
            student_hidden.new_full((len(targets),), weight, dtype=torch.float32),
            config=self.options,
            targets=targets,
            student_bias=student_bias,
            teacher_bias=teacher_bias,
            # Heads may be padded beyond the tokenizer, each model's differently.
            vocab_size=min(len(student_head), len(teacher_head)),
            grad_eps=self.grad_eps,
        )
