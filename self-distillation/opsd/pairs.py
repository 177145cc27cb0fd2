"""Rollout -> the student's and the teacher's sequence, and pairs -> micro-batches."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from opsd.rollouts import Rollout
from srt.contract.layout import Layout, TokenSequence

Item = TypeVar("Item")


@dataclass(frozen=True)
class SequencePair:
    """Student sequence chat(x) + y and teacher sequence chat(x) + y + cue(r) + y; both supervise the same
    tokens."""

    rollout: Rollout
    student: TokenSequence
    teacher: TokenSequence

    @property
    def targets(self) -> list[int]:
        """The supervised tokens: y, or as much of it as the teacher's budget allows."""
        return self.student.ids[self.student.start :]


def build_pair(rollout: Rollout, layout: Layout, max_teacher_tokens: int) -> SequencePair:
    """Both sequences; y is shortened for both alike when the teacher's sequence would be too long."""
    y = layout.fit_to_teacher(rollout.chat, rollout.y, rollout.r, max_teacher_tokens)
    return SequencePair(
        rollout,
        student=layout.student_sequence(rollout.chat, y),
        teacher=layout.teacher_sequence(rollout.chat, y, rollout.r),
    )


def micro_batches(pairs: list[SequencePair], tokens: int) -> Iterator[list[SequencePair]]:
    """Pairs of similar length together, with at most `tokens` teacher tokens (padding included) in each."""
    return batches_by_length(pairs, lambda pair: len(pair.teacher.ids), tokens)


def batches_by_length(items: list[Item], length: Callable[[Item], int], tokens: int) -> Iterator[list[Item]]:
    """Items of similar length together, with at most `tokens` tokens (padding included) in each batch.

    An item that exceeds the limit on its own is a batch by itself.
    """
    batch: list[Item] = []
    for item in sorted(items, key=length):
        if batch and length(item) * (len(batch) + 1) > tokens:
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch
