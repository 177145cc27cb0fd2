"""The Engine protocol: what the training loop (train.py) asks of ENGINE=local and ENGINE=nemo-rl."""

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from opsd.kl import KLOutput
from opsd.pairs import SequencePair
from opsd.rollouts import BatchGrader
from srt.common.errors import UserError
from srt.sampling.base import InterruptibleSampler

START_STATE = {"step": 0, "teacher_was_synced": False}  # of a run without a checkpoint


ScoredBatch = tuple[list[SequencePair], KLOutput]  # a micro-batch with its KL, on the CPU


@dataclass(frozen=True)
class PairWithKL:
    """A pair that was trained on, and the KL of each of its tokens in nats."""

    pair: SequencePair
    token_kl: list[float]


@dataclass(frozen=True)
class UpdateResult:
    """What a step's updates yield.

    scored: in any order.
    optimizer: metrics of the optimizer: the mean `grad_norm` before clipping, the last update's `lr`, and whatever
        else an engine measures.
    """

    scored: list[ScoredBatch]
    optimizer: dict[str, float]

    def pairs_with_kl(self) -> Iterator[PairWithKL]:
        for pairs, output in self.scored:
            parts = output.token_kl.split([len(pair.targets) for pair in pairs])
            for pair, token_kl in zip(pairs, parts, strict=True):
                yield PairWithKL(pair, token_kl.tolist())


NO_UPDATE = UpdateResult([], {})  # of a step in which no response enters the loss (LOSS_ON=r0)


class Engine(Protocol):
    """Student, frozen teacher, optimizer and sampler, as the newest checkpoint left them.

    The loop uses an engine between its construction and `close`, one call at a time; with ROLLOUT_AHEAD, `update`
    also inside of a `sampling` block, whose sampler another thread uses meanwhile.
    """

    @property
    def start_step(self) -> int:
        """Steps that were finished when the engine was opened."""
        ...

    @property
    def grader(self) -> BatchGrader: ...

    def sampling(self) -> AbstractContextManager[InterruptibleSampler]:
        """For the block, a sampler that draws from pi_theta as it is when the block begins; afterwards it has
        given its memory back, unless ROLLOUT_AHEAD keeps it beside the trainer."""
        ...

    def update(self, pairs: list[SequencePair]) -> UpdateResult:
        """Score the pairs, and make one optimizer step for each TRAIN_GLOBAL_BATCH_SIZE of them.

        Raises UserError, before the weights are touched, when a gradient is not finite.
        """
        ...

    def score(self, pairs: list[SequencePair]) -> list[ScoredBatch]:
        """The KL of each pair as student and teacher are now, in any order; nothing is changed."""
        ...

    def sync_teacher(self) -> None:
        """Copy the student's weights into the teacher."""

    def save_checkpoint(self, step: int) -> None:
        """Everything needed to resume after `step` finished steps. It appears under its name only when
        complete."""

    def save_student(self, folder: Path) -> None:
        """The student as it is now, to be exported later. The sampler may be awake."""

    def export(self, folder: Path, saved: Path | None = None) -> None:
        """A Hugging Face folder of the student, in the SRT model's precision; the last thing asked of an engine.

        saved: a folder that `save_student` wrote, exported instead of the student as it is now.
        """

    def close(self) -> None:
        """End processes and free memory. May be called twice."""


def split_into_updates(pairs: list[SequencePair], batch_size: int) -> list[list[SequencePair]]:
    """The pairs of each optimizer step, in order; the last may have fewer."""
    return [pairs[start : start + batch_size] for start in range(0, len(pairs), batch_size)]


def require_finite(grad_norm: float) -> None:
    """Raises UserError for a gradient norm that is NaN or infinite; call it before the optimizer step."""
    if not math.isfinite(grad_norm):
        raise UserError(
            f"the gradient norm is {grad_norm}: the update was skipped, and the newest checkpoint precedes it; "
            "the usual remedy is a lower LR in a new OUTPUT_DIR"
        )
