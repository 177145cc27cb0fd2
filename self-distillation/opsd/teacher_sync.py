"""Teacher synchronization (TEACHER_SYNC): when the teacher becomes the student, by the clock or by evidence.

The paper (arXiv:2604.12002) synchronizes once the first round has saturated. But a student may forget in Phase 2
how to revise, which is what a teacher does. TEACHER_SYNC=plateau therefore asks for both: the training reward has
stopped rising, and the student revises at least as well as the teacher.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from opsd.engine import Engine
from opsd.metrics import TokenMetrics
from opsd.monitors import MIN_REVISIONS
from opsd.pairs import SequencePair
from opsd.rollouts import Rollout
from opsd.run import Run
from opsd.run_log import RunLog
from opsd.validation import Validator
from srt.contract import metrics as names
from srt.contract.metrics import by_reward

LENGTH_CHANGE = 0.05  # of the 90th percentile, up to which the length of long responses is stable


class TeacherSync:
    """teacher_sync.jsonl, a line for each synchronization and for each plateau at which the teacher stayed.

    All state is in the logs: a resumed run decides as the one that was not stopped.
    """

    def __init__(self, run: Run, engine: Engine, validator: Validator, log: RunLog):
        self.run = run
        self.engine = engine
        self.validator = validator
        self.log = log
        self.history = list(log.metrics.earlier)  # a line for each step
        self.decisions = log.earlier_teacher_syncs

    def run_if_due(
        self, finished_steps: int, metrics: Mapping[str, Any], rollouts: list[Rollout]
    ) -> dict[str, Any]:
        """Synchronizes the teacher when that is due. `metrics`, `rollouts`: of the step that has just finished.

        Returns metrics of its own; empty when nothing was decided.
        """
        self.history.append(dict(metrics))
        if self.run.teacher_sync_due(finished_steps):
            return self._sync(finished_steps, rollouts, self.validator.line_after(finished_steps) or {})
        if self.run.config.teacher_sync != "plateau" or not self._reward_has_plateaued(finished_steps):
            return {}
        measured = {}
        if self.validator.line_after(finished_steps) is None:
            measured = self.validator.run(finished_steps)
        teacher = self.validator.line_after(self._teacher_since()) or {}
        student = self.validator.line_after(finished_steps) or {}
        if objections := compare_revisers(teacher, student):
            self._keep_teacher(finished_steps, teacher, student, objections)
            return measured
        return measured | self._sync(finished_steps, rollouts, student)

    def _reward_has_plateaued(self, finished_steps: int) -> bool:
        """Since the last synchronization; after a plateau at which the teacher stayed, not for another window."""
        window = self.run.config.teacher_sync_window
        if self.decisions and finished_steps - (self.decisions[-1]["step"] + 1) < window:
            return False
        lines = self.history[self._teacher_since() :]
        rewards, lengths = ([line[name] for line in lines] for name in (names.REWARD, names.RESPONSE_TOKENS_P90))
        return has_plateaued(rewards, lengths, window)

    def _teacher_since(self) -> int:
        """The finished steps when the teacher was last the student: 0 at the start."""
        return max((line["step"] + 1 for line in self.decisions if line["synced"]), default=0)

    def _sync(self, finished_steps: int, rollouts: list[Rollout], student: Mapping[str, Any]) -> dict[str, Any]:
        teacher = self.validator.line_after(self._teacher_since()) or {}
        pairs = self.run.all_pairs(rollouts)
        before = self._kl(pairs)
        self.engine.sync_teacher()
        kl = {names.KL_BEFORE_SYNC: before, names.KL_AFTER_SYNC: self._kl(pairs)}
        self._decide({"step": finished_steps - 1, "synced": True, **kl}, teacher, student)
        self.log.message(
            f"step {finished_steps}: the teacher is now the student (KL {before:.4f} before, "
            f"{kl[names.KL_AFTER_SYNC]:.4f} after); {_revisers(teacher, student)}"
        )
        return kl

    def _keep_teacher(
        self,
        finished_steps: int,
        teacher: Mapping[str, Any],
        student: Mapping[str, Any],
        objections: list[str],
    ) -> None:
        reason = "; ".join(objections)
        self._decide({"step": finished_steps - 1, "synced": False, "reason": reason}, teacher, student)
        window = self.run.config.teacher_sync_window
        self.log.message(
            f"step {finished_steps}: the reward has not risen for {window} steps, but the teacher stays: "
            f"{reason}. It is considered again after {window} steps"
        )

    def _decide(self, line: dict[str, Any], teacher: Mapping[str, Any], student: Mapping[str, Any]) -> None:
        """A line of teacher_sync.jsonl, with what validation says of both revisers."""
        revisers = {"teacher": _revise_metrics(teacher), "student": _revise_metrics(student)}
        self.decisions.append(line)
        self.log.teacher_sync(line | revisers)

    def _kl(self, pairs: list[SequencePair]) -> float:
        """Of the student as it is now, to the teacher as it is now."""
        return TokenMetrics(self.engine.score(pairs)).means()[names.KL]


def has_plateaued(rewards: Sequence[float], lengths: Sequence[float], window: int) -> bool:
    """The highest mean reward over `window` steps is at least `window` steps old, and long responses are, up to
    LENGTH_CHANGE, as long as in the window before.

    `rewards`, `lengths`: of each step, the mean reward and the 90th percentile of the response length.
    """
    if len(rewards) < 2 * window:
        return False
    means = [sum(rewards[start : start + window]) / window for start in range(len(rewards) - window + 1)]
    if len(means) - 1 - means.index(max(means)) < window:
        return False
    earlier, latest = sum(lengths[-2 * window : -window]), sum(lengths[-window:])
    return abs(latest - earlier) <= LENGTH_CHANGE * earlier


def compare_revisers(teacher: Mapping[str, Any], student: Mapping[str, Any]) -> list[str]:
    """Why the student should not become the teacher; empty if it revises at least as well.

    Both: lines of validation.jsonl, empty if there is none. Wrong and right responses are compared apart. A
    difference of up to one standard error is chance.
    """
    objections = []
    for r, name in ((0, "wrong"), (1, "right")):
        accuracy, count = by_reward(names.REVISE, r), by_reward(names.REVISIONS, r)
        counts = [line.get(count) or 0 for line in (teacher, student)]
        if min(counts) < MIN_REVISIONS:
            objections.append(
                f"{counts[0]} and {counts[1]} revisions of {name} responses by teacher and student are too few to "
                f"compare (at least {MIN_REVISIONS} each; raise VAL_NUM_SAMPLES)"
            )
            continue
        of_teacher, of_student = teacher[accuracy], student[accuracy]
        pooled = (of_teacher * counts[0] + of_student * counts[1]) / sum(counts)
        standard_error = math.sqrt(pooled * (1 - pooled) * (1 / counts[0] + 1 / counts[1]))
        if of_student < of_teacher - standard_error:
            objections.append(
                f"after revising {name} responses the student is correct in {of_student:.1%}, the teacher in "
                f"{of_teacher:.1%}"
            )
    return objections


def _revise_metrics(line: Mapping[str, Any]) -> dict[str, Any]:
    by_r = [by_reward(name, r) for r in (0, 1) for name in (names.REVISE, names.REVISIONS)]
    return {name: line.get(name) for name in by_r}


def _revisers(teacher: Mapping[str, Any], student: Mapping[str, Any]) -> str:
    """In words: how the former teacher and the student revise."""
    parts = []
    for r, name in ((0, "wrong"), (1, "right")):
        before, after = (line.get(by_reward(names.REVISE, r)) for line in (teacher, student))
        if before is not None and after is not None:
            parts.append(f"correct after revising {name} responses: {before:.1%} before, {after:.1%} now")
    return ", ".join(parts) or "how they revise was not measured at this step"
