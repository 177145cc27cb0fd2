"""Rollout -> the student's and the teacher's row, and rows -> micro-batches."""

from collections.abc import Iterator
from dataclasses import dataclass

from srt.contract.layout import Layout, Row
from srt.contract.records import Problem


@dataclass(frozen=True)
class Rollout:
    """y ~ pi_theta(. | x), graded. `y` holds its end of turn exactly when `finish_reason` is "stop".

    `logprobs`: of each token of y, as the sampler saw it.
    """

    problem: Problem
    chat: list[int]
    y: list[int]
    logprobs: list[float]
    finish_reason: str
    r: int


@dataclass(frozen=True)
class Pair:
    """Student row chat(x) + y and teacher row chat(x) + y + cue(r) + y; both supervise the same tokens."""

    rollout: Rollout
    student: Row
    teacher: Row

    @property
    def targets(self) -> list[int]:
        return self.student.ids[self.student.start :]


def build_pair(rollout: Rollout, layout: Layout, max_teacher_tokens: int) -> Pair:
    """Both rows; y is shortened for both alike when the teacher's row would be too long."""
    y = layout.fit_to_teacher(rollout.chat, rollout.y, rollout.r, max_teacher_tokens)
    return Pair(
        rollout,
        student=layout.student_row(rollout.chat, y),
        teacher=layout.teacher_row(rollout.chat, y, rollout.r),
    )


def micro_batches(pairs: list[Pair], tokens: int) -> Iterator[list[Pair]]:
    """Pairs of similar length together, at most `tokens` teacher tokens (padding included) in each.

    A pair that is longer than that comes alone.
    """
    batch: list[Pair] = []
    for pair in sorted(pairs, key=lambda pair: len(pair.teacher.ids)):
        if batch and len(pair.teacher.ids) * (len(batch) + 1) > tokens:
            yield batch
            batch = []
        batch.append(pair)
    if batch:
        yield batch
