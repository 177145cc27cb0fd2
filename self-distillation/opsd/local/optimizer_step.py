"""One optimizer step: score both sequences of every pair, take the exact KL, update the student."""

import math
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from opsd.config import RunConfig, kl_config
from opsd.engine import ScoredBatch, require_finite
from opsd.hidden_states import LMHead
from opsd.kl import KLOutput
from opsd.local.checkpoint import load_optimizer
from opsd.local.student import Student
from opsd.local.teacher import Teacher
from opsd.loss_terms import advantages
from opsd.pair_kl import detach_to_cpu, pair_kl, sequences_nll
from opsd.pairs import SequencePair, batches_by_length, micro_batches
from opsd.replay import Replay
from opsd.timing import span
from srt.common.lr_schedule import lr_factor
from srt.contract import metrics as names


@dataclass(frozen=True)
class OptimizerStepResult:
    """scored: micro-batches with their KL; grad_norm: before clipping; lr: of this update; terms:
    the parts of the loss beside the KL, by their metrics' names and before their weights."""

    scored: list[ScoredBatch]
    grad_norm: float
    lr: float
    terms: dict[str, float]


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
        replay: Replay | None = None,
    ):
        self.student = student
        self.teacher = teacher
        self.kl_config = kl_config(config)
        self.grad_eps = config.kl_grad_eps
        self.reward_weight = config.reward_weight
        self.replay, self.replay_weight = replay, config.srt_replay_weight
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
        by_pair = dict(zip(map(id, pairs), advantages([pair.rollout.r for pair in pairs]), strict=True))
        scored: list[ScoredBatch] = []
        terms: dict[str, float] = defaultdict(float)
        for batch in micro_batches(pairs, self.tokens_per_micro_batch):
            batch_advantages = [by_pair[id(pair)] for pair in batch] if self.reward_weight else None
            output, reward_loss = self._accumulate_gradients(batch, 1 / total_tokens, batch_advantages)
            scored.append((batch, output))
            if self.reward_weight:
                terms[names.REWARD_LOSS] += reward_loss
        if self.replay:
            terms[names.REPLAY_LOSS] = self._accumulate_replay(self.replay)
        with span("update"):
            grad_norm = float(torch.nn.utils.clip_grad_norm_(self.parameters, self.max_grad_norm))
            require_finite(grad_norm)
            lr = self.optimizer.param_groups[0]["lr"]
            self.optimizer.step()
            self.scheduler.step()
            # 4 bytes per parameter that the sampler can use until the next update.
            self.optimizer.zero_grad(set_to_none=True)
        return OptimizerStepResult(scored, grad_norm, lr, dict(terms))

    @torch.no_grad()
    def score(self, pairs: list[SequencePair]) -> list[ScoredBatch]:
        """The KL of each pair, without an update."""
        batches = micro_batches(pairs, self.tokens_per_micro_batch)
        return [(batch, detach_to_cpu(self._forward(batch, 1.0)[0])) for batch in batches]

    def _accumulate_gradients(
        self, batch: list[SequencePair], token_weight: float, batch_advantages: list[float] | None
    ) -> tuple[KLOutput, float]:
        """Forward and backward passes of one micro-batch: its KL, and its part of the reward's loss.

        A function of its own, so that the gradients which the KL formed, [V, H] among them, are freed before the
        next micro-batch's forward pass.
        """
        output, hidden, head = self._forward(batch, token_weight)
        with span("student"):
            loss, reward_loss = output.loss, 0.0
            if batch_advantages is not None:
                sequences = [pair.student for pair in batch]
                weights = [token_weight * advantage for advantage in batch_advantages]
                term = sequences_nll(hidden, head, sequences, weights)
                loss, reward_loss = loss + self.reward_weight * term, float(term.detach())
            loss.backward()
        return detach_to_cpu(output), reward_loss

    def _forward(self, batch: list[SequencePair], token_weight: float) -> tuple[KLOutput, Tensor, LMHead]:
        """The KL of a micro-batch; the student's hidden states (T, H) and LM head."""
        with span("teacher"):
            teacher_hidden = self.teacher.hidden([pair.teacher for pair in batch], self.pad_id)  # (T, H)
        with span("student"):
            sequences = [pair.student for pair in batch]
            hidden, head = self.student.hidden(sequences, self.pad_id), self.student.lm_head()
            output = pair_kl(
                hidden,
                head,
                teacher_hidden,
                self.teacher.lm_head(),
                sequences,
                token_weight,
                self.kl_config,
                self.grad_eps,
            )
        return output, hidden, head

    def _accumulate_replay(self, replay: Replay) -> float:
        """Gradients of the SFT loss on the update's revision tuples: the mean over their supervised tokens."""
        sequences = replay.of_update(self.scheduler.last_epoch)  # updates so far
        token_weight = 1 / sum(len(sequence.ids) - sequence.start for sequence in sequences)
        loss = 0.0
        with span("student"):
            for batch in batches_by_length(sequences, lambda s: len(s.ids), self.tokens_per_micro_batch):
                hidden, head = self.student.hidden(batch, self.pad_id), self.student.lm_head()
                term = sequences_nll(hidden, head, batch, [token_weight] * len(batch))
                (self.replay_weight * term).backward()
                loss += float(term.detach())
        return loss
