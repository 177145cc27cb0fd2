"""Rollout -> the student's and the teacher's row, and rows -> micro-batches."""

from collections.abc import Iterator
from dataclasses import dataclass

from srt.contract.layout import Layout, TokenSequence
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
class SequencePair:
    """Student row chat(x) + y and teacher row chat(x) + y + cue(r) + y; both supervise the same tokens."""

    rollout: Rollout
    student: TokenSequence
    teacher: TokenSequence

    @property
    def targets(self) -> list[int]:
        return self.student.ids[self.student.start :]


def build_pair(rollout: Rollout, layout: Layout, max_teacher_tokens: int) -> SequencePair:
    """Both rows; y is shortened for both alike when the teacher's row would be too long."""
    y = layout.fit_to_teacher(rollout.chat, rollout.y, rollout.r, max_teacher_tokens)
    return SequencePair(
        rollout,
        student=layout.student_sequence(rollout.chat, y),
        teacher=layout.teacher_sequence(rollout.chat, y, rollout.r),
    )


def micro_batches(pairs: list[SequencePair], tokens: int) -> Iterator[list[SequencePair]]:
    """Pairs of similar length together, at most `tokens` teacher tokens (padding included) in each.

    A pair that is longer than that comes alone.
    """
    batch: list[SequencePair] = []
    for pair in sorted(pairs, key=lambda pair: len(pair.teacher.ids)):
        if batch and len(pair.teacher.ids) * (len(batch) + 1) > tokens:
            yield batch
            batch = []
        batch.append(pair)
    if batch:
        yield batch
