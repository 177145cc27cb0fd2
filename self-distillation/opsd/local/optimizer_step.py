"""One optimizer step: score both sequences of every pair, take the exact KL, update the student."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from opsd.config import RunConfig, kl_config, optimizer_config
from opsd.cpu_offload import OffGpu
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
from srt.contract import metrics as names


@dataclass(frozen=True)
class OptimizerStepResult:
    """scored: micro-batches with their KL; grad_norm: before clipping; lr: of this update; terms:
    the parts of the loss beside the KL, by their metrics' names and before their weights."""

    scored: list[ScoredBatch]
    grad_norm: float
    lr: float
    terms: dict[str, float]


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
        replay: Replay | None = None,
    ):
        """`offload`: keep Adam's moments, and a teacher of its own, in host memory while they are not used."""
        self.offload = offload
        self.student = student
        self.teacher = teacher
        self.kl_config = kl_config(config)
        self.grad_eps = config.kl_grad_eps
        self.reward_weight = config.reward_weight
        self.replay, self.replay_weight = replay, config.srt_replay_weight
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
        with self.student.attention():
            scored, terms = self._accumulate(pairs)
        with span("update"):
            grad_norm = self.optimizer_config.clip(self.parameters)
            require_finite(grad_norm)
            lr = self.optimizer.param_groups[0]["lr"]
            with self.moments.present():
                self.optimizer.step()
            self.scheduler.step()
            # 4 bytes per parameter that the sampler can use until the next update.
            self.optimizer.zero_grad(set_to_none=True)
        return OptimizerStepResult(scored, grad_norm, lr, terms)

    def _accumulate(self, pairs: list[SequencePair]) -> tuple[list[ScoredBatch], dict[str, float]]:
        """The gradients of an update: its micro-batches with their KL, and the terms of the loss."""
        total_tokens = sum(len(pair.targets) for pair in pairs)
        by_pair = dict(zip(map(id, pairs), advantages([pair.rollout.r for pair in pairs]), strict=True))
        scored: list[ScoredBatch] = []
        terms: dict[str, float] = defaultdict(float)
        for batch, teacher in self._teacher_scores(pairs):
            batch_advantages = [by_pair[id(pair)] for pair in batch] if self.reward_weight else None
            output, reward_loss = self._accumulate_gradients(batch, teacher, 1 / total_tokens, batch_advantages)
            scored.append((batch, output))
            if self.reward_weight:
                terms[names.REWARD_LOSS] += reward_loss
        if self.replay:
            terms[names.REPLAY_LOSS] = self._accumulate_replay(self.replay)
        return scored, dict(terms)

    @torch.no_grad()
    def score(self, pairs: list[SequencePair]) -> list[ScoredBatch]:
        """The KL of each pair, without an update."""
        with self.student.attention():
            return [
                (batch, detach_to_cpu(self._forward(batch, teacher, 1.0)[0]))
                for batch, teacher in self._teacher_scores(pairs)
            ]

    def _teacher_scores(self, pairs: list[SequencePair]) -> Iterator[tuple[list[SequencePair], TeacherScore]]:
        """The micro-batches, each with its teacher's hidden states."""
        batches = micro_batches(pairs, self.tokens_per_micro_batch, self.student.packed)
        return zip(batches, self._score_all(batches) if self.offload else map(self._score, batches), strict=True)

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
        self,
        batch: list[SequencePair],
        teacher: TeacherScore,
        token_weight: float,
        batch_advantages: list[float] | None,
    ) -> tuple[KLOutput, float]:
        """Forward and backward passes of one micro-batch: its KL, and its part of the reward's loss.

        A function of its own, so that the gradients which the KL formed, [V, H] among them, are freed before the
        next micro-batch's forward pass.
        """
        output, hidden, head = self._forward(batch, teacher, token_weight)
        with span("student"):
            loss, reward_loss = output.loss, 0.0
            if batch_advantages is not None:
                sequences = [pair.student for pair in batch]
                weights = [token_weight * advantage for advantage in batch_advantages]
                term = sequences_nll(hidden, head, sequences, weights)
                loss, reward_loss = loss + self.reward_weight * term, float(term.detach())
            loss.backward()
        return detach_to_cpu(output), reward_loss

    def _forward(
        self, batch: list[SequencePair], teacher: TeacherScore, token_weight: float
    ) -> tuple[KLOutput, Tensor, LMHead]:
        """The KL of a micro-batch; the student's hidden states (T, H) and LM head."""
        with span("student"):
            sequences = [pair.student for pair in batch]
            hidden, head = self.student.hidden(sequences, self.pad_id), self.student.lm_head()
            output = pair_kl(
                hidden,
                head,
                teacher.hidden,
                teacher.head,
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
            limit = self.tokens_per_micro_batch
            for batch in batches_by_length(sequences, lambda s: len(s.ids), limit, self.student.packed):
                hidden, head = self.student.hidden(batch, self.pad_id), self.student.lm_head()
                term = sequences_nll(hidden, head, batch, [token_weight] * len(batch))
                (self.replay_weight * term).backward()
                loss += float(term.detach())
        return loss
