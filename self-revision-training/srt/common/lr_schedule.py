"""Learning-rate schedules of both phases: warm-up, then constant, linear or cosine decay.

transformers' schedules give the first of n warm-up updates a learning rate of 0: with few updates per stage that
one is a large share of the training, and an update that changes nothing is reported as one that does. Here update
k (from 0) of the warm-up has (k + 1) / (n + 1) of the peak, so every update changes the weights, and the first one
after the warm-up has all of it. With `warmup_start`, the first update has that share, as in torch's LinearLR.
"""

import math
from collections.abc import Callable

KINDS = ("linear", "cosine", "constant_with_warmup")


def first_factor(warmup_updates: int, warmup_start: float | None) -> float:
    """The share of the peak with which a warm-up starts."""
    return 1 / (warmup_updates + 1) if warmup_start is None else warmup_start


def lr_factor(
    kind: str, warmup_updates: int, total_updates: int, warmup_start: float | None = None
) -> Callable[[int], float]:
    """update (from 0) -> its share of the peak learning rate, in (0, 1] for all updates below `total_updates`
    unless `warmup_start` is 0.

    kind: "linear" and "cosine" would reach 0 at `total_updates`; "constant_with_warmup" stays at the peak.
    Raises ValueError for another kind.
    """
    if kind not in KINDS:
        raise ValueError(f"the schedule {kind!r} is unknown, expected one of {', '.join(KINDS)}")
    decaying = max(1, total_updates - warmup_updates)

    def factor(update: int) -> float:
        if update < warmup_updates:
            start = first_factor(warmup_updates, warmup_start)
            return start + (1 - start) * update / warmup_updates
        if kind == "constant_with_warmup":
            return 1.0
        remaining = max(0.0, 1.0 - (update - warmup_updates) / decaying)
        return remaining if kind == "linear" else 0.5 * (1.0 - math.cos(math.pi * remaining))

    return factor
