"""How often the teacher would copy: its most likely token is the one that stands in the first y."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from opsd.localize.records import ScoredResponse

PARTS = 10  # of a response, by position


def copy_diagnostic(responses: Sequence[ScoredResponse], r: int) -> dict[str, Any] | None:
    """Over the tokens of all responses with reward r; None if there are none.

    `by_position`: for each tenth of a response, from its beginning, the share of tokens that the teacher copies
    (`copied`), that the student ranks first (`student_first`), and the KL. `kl_copied` and `kl_changed`: the
    KL where the teacher copies and where it does not (None: no such token).
    """
    chosen = [response for response in responses if response.r == r]
    if not chosen:
        return None
    copied = np.concatenate([np.array(response.teacher_rank) == 1 for response in chosen])
    first = np.concatenate([np.array(response.student_rank) == 1 for response in chosen])
    kl = np.concatenate([response.kl for response in chosen])
    part = np.concatenate([np.arange(len(response.kl)) * PARTS // len(response.kl) for response in chosen])
    whole = [bool((np.array(response.teacher_rank) == 1).all()) for response in chosen]
    return {
        "tokens": len(kl),
        "copied": float(copied.mean()),
        "student_first": float(first.mean()),
        "whole_response_copied": float(np.mean(whole)),
        "kl_copied": _mean(kl[copied]),
        "kl_changed": _mean(kl[~copied]),
        "kl_share_changed": float(kl[~copied].sum() / kl.sum()) if kl.sum() > 0 else None,
        "by_position": {
            "copied": _by_part(copied, part),
            "student_first": _by_part(first, part),
            "kl": _by_part(kl, part),
        },
    }


def _by_part(values: np.ndarray, part: np.ndarray) -> list[float | None]:
    return [_mean(values[part == index]) for index in range(PARTS)]


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None
