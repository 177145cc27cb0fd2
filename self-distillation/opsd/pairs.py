"""Rollout -> the student's and the teacher's sequence, and pairs -> micro-batches."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeVar

from opsd.rollouts import Rollout
from srt.common.balance import fewest_parts
from srt.contract.layout import Layout, TokenSequence
from srt.contract.seeds import sample_seed

Item = TypeVar("Item")
TeacherCue = Literal["verdict", "random", "0", "1", "none"]


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


def build_pair(
    rollout: Rollout, layout: Layout, max_teacher_tokens: int, teacher_cue: TeacherCue = "verdict", seed: int = 0
) -> SequencePair:
    """Both sequences; y is shortened for both alike when the teacher's sequence would be too long.

    `teacher_cue`: see `told_reward`.
    """
    told = told_reward(rollout, teacher_cue, seed)
    y = layout.fit_to_teacher(rollout.chat, rollout.y, told, max_teacher_tokens)
    return SequencePair(
        rollout,
        student=layout.student_sequence(rollout.chat, y),
        teacher=layout.teacher_sequence(rollout.chat, y, told),
    )


def told_reward(rollout: Rollout, teacher_cue: TeacherCue, seed: int) -> int | None:
    """The reward whose phrase the teacher reads after y; None: no phrase.

    "verdict" is the method: the reward of y. The others are controls. "random" tosses a coin, the same for the
    same response and `seed`; "0" and "1" say the same of every response; "none" says nothing.
    """
    if teacher_cue == "verdict":
        return rollout.r
    if teacher_cue == "random":
        return sample_seed(seed, "teacher cue", rollout.problem.id, *rollout.y) % 2
    return None if teacher_cue == "none" else int(teacher_cue)


def micro_batches(pairs: list[SequencePair], tokens: int, packed: bool = False) -> list[list[SequencePair]]:
    """The pairs of each forward pass, with at most `tokens` teacher tokens in it; see batches_by_length."""
    return batches_by_length(pairs, lambda pair: len(pair.teacher.ids), tokens, packed)


def batches_by_length(
    items: list[Item], length: Callable[[Item], int], tokens: int, packed: bool = False
) -> list[list[Item]]:
    """Batches of at most `tokens` tokens; an item that exceeds the limit on its own is a batch by itself.

    Padded: items of similar length together, and padding counts as tokens. Packed: as few batches of nearly equal
    length as hold the items.
    """
    if packed:
        parts = fewest_parts(range(len(items)), [length(item) for item in items], tokens)
        return [[items[index] for index in part] for part in parts if part]
    batches: list[list[Item]] = []
    for item in sorted(items, key=length):
        if not batches or length(item) * (len(batches[-1]) + 1) > tokens:
            batches.append([])
        batches[-1].append(item)
    return batches
