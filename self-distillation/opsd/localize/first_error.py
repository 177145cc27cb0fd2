"""Is the KL's peak at the first wrong step? For responses whose arithmetic can be checked."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from opsd.localize.arithmetic import check_arithmetic
from opsd.localize.records import ScoredResponse
from srt.evaluation.intervals import bootstrap_interval

NEAR = 2  # tokens


@dataclass(frozen=True)
class LocatedError:
    """Positions of tokens. `attempt`: how many tokens the response has before it begins to revise itself."""

    response: ScoredResponse
    error: int
    peak: int
    attempt: int

    @property
    def peak_in_attempt(self) -> int:
        return int(np.argmax(self.response.kl[: self.attempt]))

    @property
    def rank(self) -> int:
        """Of the error among the tokens of the response by KL, from 1."""
        kl = np.array(self.response.kl)
        return 1 + int((kl > kl[self.error]).sum())

    @property
    def chance(self) -> float:
        """The share of the response's positions that are within NEAR of the error."""
        low, high = max(0, self.error - NEAR), min(len(self.response.kl), self.error + NEAR + 1)
        return (high - low) / len(self.response.kl)


def locate(response: ScoredResponse, phrases: Sequence[str]) -> LocatedError | None:
    """None for a response without a checkable step, or without a wrong one."""
    text = response.text
    checked = check_arithmetic(response.x, text)
    if checked.error is None:
        return None
    cue = min((position for phrase in phrases if (position := text.find(phrase)) > 0), default=len(text))
    error, attempt = token_at(response.tokens, checked.error), token_at(response.tokens, cue)
    return LocatedError(response, error, int(np.argmax(response.kl)), max(attempt, error + 1))


def token_at(tokens: Sequence[str], position: int) -> int:
    """The token that holds the character at `position` of their text; their number behind the end."""
    ends = np.cumsum([len(token) for token in tokens])
    return int(np.searchsorted(ends, position, side="right"))


def first_error(
    responses: Sequence[ScoredResponse], r: int, phrases: Sequence[str], seed: int
) -> dict[str, Any] | None:
    """Of the responses with reward r, how often the KL's peak is at the first error (`at`) or within NEAR tokens
    of it (`near`, with a bootstrap interval over responses), and how often it would be by `chance`; None where no
    response has a checkable wrong step. (Right ones may have one, and correct it afterwards.)

    `in_attempt`: the same for the peak among the tokens before a response begins to revise itself. At the error:
    `copied`, the share where the teacher's most likely token is the wrong one, and the KL there and elsewhere.
    """
    chosen = [response for response in responses if response.r == r]
    checkable = sum(check_arithmetic(response.x, response.text).steps > 0 for response in chosen)
    errors = [error for response in chosen if (error := locate(response, phrases))]
    if not errors:
        return None
    copies = np.array([error.response.teacher_rank[error.error] == 1 for error in errors])
    kl = np.array([error.response.kl[error.error] for error in errors])
    log_probs = [
        (error.response.student_logprob[error.error], error.response.teacher_logprob[error.error])
        for error in errors
    ]
    student, teacher = np.exp(np.array(log_probs)).mean(axis=0)
    return {
        "checkable": checkable,
        "errors": len(errors),
        **_hits([error.peak - error.error for error in errors], seed),
        "chance": float(np.mean([error.chance for error in errors])),
        "median_rank": float(np.median([error.rank for error in errors])),
        "in_attempt": _hits([error.peak_in_attempt - error.error for error in errors], seed),
        "offsets": [error.peak - error.error for error in errors],
        "at_error": {
            "copied": float(copies.mean()),
            "kl": float(kl.mean()),
            "kl_copied": float(kl[copies].mean()) if copies.any() else None,
            "kl_changed": float(kl[~copies].mean()) if not copies.all() else None,
            "kl_elsewhere": _kl_elsewhere(errors),
            "student_probability": float(student),
            "teacher_probability": float(teacher),
        },
    }


def _hits(offsets: list[int], seed: int) -> dict[str, Any]:
    distance = np.abs(offsets)
    near = (distance <= NEAR).astype(float)
    return {
        "at": float((distance == 0).mean()),
        "near": float(near.mean()),
        "near_interval": bootstrap_interval(near, seed),
    }


def _kl_elsewhere(errors: list[LocatedError]) -> float:
    total = sum(sum(error.response.kl) - error.response.kl[error.error] for error in errors)
    return total / max(1, sum(len(error.response.kl) - 1 for error in errors))
