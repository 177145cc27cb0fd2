"""Warnings about what falls from one validation to the next while the accuracy may still rise."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from srt.contract import metrics as names
from srt.contract.metrics import by_reward

LARGE_FALL, ERRORS = 0.1, 2.0  # a fall must exceed both, the second one in standard errors of the difference
MIN_SAMPLES = 20  # less is no evidence
ENTROPY_FRACTION = 0.25  # of the entropy at the first validation
REVISE_R1, REVISIONS_R1 = by_reward(names.REVISE, 1), by_reward(names.REVISIONS, 1)

Line = Mapping[str, Any]


class ValidationMonitor:
    """Compares each validation with the best one before it; each warning is given once, until its cause passes."""

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self.active: set[str] = set()

    def check(self, line: Line) -> list[str]:
        """The warnings that begin with this line of validation.jsonl. A metric may be missing or None."""
        warnings = {
            "revise": self._check_revising(line),
            "pass": self._check_pass(line),
            "entropy": self._check_entropy(line),
        }
        self.lines.append(line)
        new = [text for name, text in warnings.items() if text and name not in self.active]
        self.active = {name for name, text in warnings.items() if text}
        return new

    def _check_revising(self, line: Line) -> str | None:
        fall = self._fall(line, REVISE_R1, lambda of: of.get(REVISIONS_R1) or 0)
        if fall is None:
            return None
        return (
            f"asked to rephrase its right responses, the student keeps {line[REVISE_R1]:.1%} of them right, "
            f"{fall[REVISE_R1]:.1%} {_when(fall)}: it forgets how to revise, and as a teacher (TEACHER_SYNC) it "
            "would pull students away from right answers. A lower LR, or SRT_REPLAY, preserves it; an earlier "
            "checkpoint still has it"
        )

    def _check_pass(self, line: Line) -> str | None:
        fall = self._fall(line, names.PASS_AT_K, lambda of: of.get(names.PROBLEMS) or 0)
        if fall is None:
            return None
        return (
            f"the share of problems with a right response (pass@k) fell to {line[names.PASS_AT_K]:.1%}, "
            f"from {fall[names.PASS_AT_K]:.1%} {_when(fall)}: the student no longer finds some solutions that it "
            "found. A lower LR, fewer steps or an earlier checkpoint preserves them"
        )

    def _check_entropy(self, line: Line) -> str | None:
        entropy = line.get(names.ENTROPY)
        first = next((of for of in self.lines if of.get(names.ENTROPY) is not None), None)
        if entropy is None or first is None or entropy >= ENTROPY_FRACTION * first[names.ENTROPY]:
            return None
        return (
            f"the entropy of validation responses fell to {entropy:.4f} nats per token, from "
            f"{first[names.ENTROPY]:.4f} {_when(first)}: they are becoming identical, and avg@k and pass@k will "
            "meet. A lower LR, or an earlier checkpoint, preserves their diversity"
        )

    def _fall(self, line: Line, name: str, count: Callable[[Line], int]) -> Line | None:
        """The earlier line with the highest share `name`, if that of `line` is lower by more than chance.

        count: of the samples whose share it is.
        """
        measured = [of for of in self.lines if of.get(name) is not None and count(of) >= MIN_SAMPLES]
        if line.get(name) is None or count(line) < MIN_SAMPLES or not measured:
            return None
        best = max(measured, key=lambda of: of[name])
        mean = (line[name] + best[name]) / 2
        error = math.sqrt(mean * (1 - mean) * (1 / count(line) + 1 / count(best)))
        return best if best[name] - line[name] > max(LARGE_FALL, ERRORS * error) else None


def _when(line: Line) -> str:
    return "before the first step" if line["step"] < 0 else f"after step {line['step'] + 1}"
