"""Which tuples each update trains on, and how they are split over processes and forward passes.

An update holds a fixed number of tuples, regardless of the number of processes. Every process runs the same number
of passes in an update, since sharded training waits for the slowest one: as few as hold the tuples. With packing,
the tuples of a pass are concatenated into one packed sequence, and the passes of an update have about the same
length; without packing, the tuples of a pass are padded to the longest.
"""

import math
import random
from dataclasses import dataclass

from srt.common.balance import fewest_parts


@dataclass(frozen=True)
class BatchPlan:
    """`passes`: the tuples of each forward pass, ordered by update, then pass, then process.

    Pass p of an update on process r is at index (update * passes_per_update + p) * processes + r. An update that
    needs fewer than `passes_per_update` passes begins with passes that are empty on all processes, which are
    skipped; one that is empty on some processes trains on nothing there and keeps them in step.
    """

    passes: list[list[int]]
    passes_per_update: int
    processes: int
    updates: list[list[int]]

    @property
    def skipped(self) -> list[bool]:
        """For each of `passes`: whether it is empty on all processes."""
        size = self.processes
        groups = [self.passes[start : start + size] for start in range(0, len(self.passes), size)]
        return [not any(group) for group in groups for _ in range(size)]


def count_updates(num_tuples: int, epochs: float, tuples_per_update: int) -> int:
    """The number of updates in `epochs` passes over the tuples; it does not depend on the number of processes."""
    updates_per_epoch = math.ceil(num_tuples / tuples_per_update)
    return max(1, math.ceil(round(epochs * updates_per_epoch, 6)))


def plan_updates(num_tuples: int, epochs: float, tuples_per_update: int, seed: int) -> list[list[int]]:
    """The tuples of each update. Every epoch has a new order, and its last update takes the remainder.

    A fraction of an epoch is that fraction of its updates, rounded up.
    """
    updates_per_epoch = math.ceil(num_tuples / tuples_per_update)
    total = count_updates(num_tuples, epochs, tuples_per_update)
    updates: list[list[int]] = []
    for epoch in range(math.ceil(total / updates_per_epoch)):
        order = list(range(num_tuples))
        random.Random(f"{seed} {epoch}").shuffle(order)
        updates += [order[start : start + tuples_per_update] for start in range(0, num_tuples, tuples_per_update)]
    return updates[:total]


def plan_packed(updates: list[list[int]], lengths: list[int], max_tokens: int, processes: int) -> BatchPlan:
    """Passes of at most `max_tokens` tokens; a longer tuple gets a pass to itself."""
    parts_of_updates = [fewest_parts(update, lengths, max_tokens, processes) for update in updates]
    return _of_equal_size(updates, parts_of_updates, processes)


def plan_padded(updates: list[list[int]], lengths: list[int], tuples_per_pass: int, processes: int) -> BatchPlan:
    """Passes of at most `tuples_per_pass` tuples of similar length."""
    parts_of_updates = []
    for update in updates:
        num_parts = math.ceil(len(update) / (tuples_per_pass * processes)) * processes
        longest_first = sorted(update, key=lambda index: -lengths[index])
        bounds = [len(update) * part // num_parts for part in range(num_parts + 1)]
        parts = [longest_first[start:end] for start, end in zip(bounds, bounds[1:], strict=False)]
        parts_of_updates.append(sorted(parts, key=lambda part: not part))  # empty ones last
    return _of_equal_size(updates, parts_of_updates, processes)


def _of_equal_size(updates: list[list[int]], parts_of_updates: list[list[list[int]]], processes: int) -> BatchPlan:
    """The plan with as many passes in each update as the largest one has: the Trainer counts passes.

    The additional ones come first, since gradients are exchanged in the last pass of an update.
    """
    most = max(len(parts) for parts in parts_of_updates)
    passes = [part for parts in parts_of_updates for part in [[]] * (most - len(parts)) + parts]
    return BatchPlan(passes, most // processes, processes, updates)
