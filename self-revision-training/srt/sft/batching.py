"""Which tuples each update trains on, and how they are spread over processes and forward passes.

An update holds a fixed number of tuples, whatever the number of processes. It takes the same number of passes on
every process, since sharded training waits for the slowest: with packing, the tuples of a pass stand one after
the other in one long row, and the passes of an update are about equally long; without, they are padded to the
longest.
"""

import heapq
import math
import random
from dataclasses import dataclass


@dataclass(frozen=True)
class Plan:
    """`passes`: the tuples of each forward pass, update by update and, within one, process by process.

    Pass p of an update on process r stands at index (update * passes_per_update + p) * processes + r. An empty
    pass has nothing to train on and only keeps the processes in step.
    """

    passes: list[list[int]]
    passes_per_update: int
    processes: int
    updates: list[list[int]]


def plan_updates(tuples: int, epochs: float, per_update: int, seed: int) -> list[list[int]]:
    """Each update's tuples: every epoch in a new order, its last update with what is left.

    A fraction of an epoch counts as that share of its updates, rounded up.
    """
    updates_per_epoch = math.ceil(tuples / per_update)
    total = max(1, math.ceil(round(epochs * updates_per_epoch, 6)))
    updates: list[list[int]] = []
    for epoch in range(math.ceil(total / updates_per_epoch)):
        order = list(range(tuples))
        random.Random(f"{seed} {epoch}").shuffle(order)
        updates += [order[start : start + per_update] for start in range(0, tuples, per_update)]
    return updates[:total]


def plan_packed(updates: list[list[int]], lengths: list[int], max_tokens: int, processes: int) -> Plan:
    """Passes of at most `max_tokens` tokens, or of one tuple that is longer than that."""
    limit = max(max_tokens, max(lengths))

    def fits(update: list[int], passes: int) -> bool:
        return max(_tokens(part, lengths) for part in _balanced(update, lengths, passes * processes)) <= limit

    passes = 1
    for update in updates:
        while not fits(update, passes):
            passes += 1
    spread = [part for update in updates for part in _balanced(update, lengths, passes * processes)]
    return Plan(spread, passes, processes, updates)


def plan_padded(updates: list[list[int]], lengths: list[int], per_pass: int, processes: int) -> Plan:
    """Passes of at most `per_pass` tuples of about the same length."""
    passes = max(math.ceil(len(update) / (per_pass * processes)) for update in updates)
    spread = []
    for update in updates:
        parts = passes * processes
        ordered = sorted(update, key=lambda index: -lengths[index])
        bounds = [len(update) * part // parts for part in range(parts + 1)]
        cut = [ordered[start:end] for start, end in zip(bounds, bounds[1:], strict=False)]
        spread += sorted(cut, key=lambda part: not part)  # the empty ones come last
    return Plan(spread, passes, processes, updates)


def _balanced(update: list[int], lengths: list[int], parts: int) -> list[list[int]]:
    """`update` in `parts` of nearly equal length, longest first: the next longest goes where least is."""
    heap = [(0, part) for part in range(parts)]
    filled: list[list[int]] = [[] for _ in range(parts)]
    for index in sorted(update, key=lambda index: -lengths[index]):
        tokens, part = heapq.heappop(heap)
        filled[part].append(index)
        heapq.heappush(heap, (tokens + lengths[index], part))
    return sorted(filled, key=lambda part: -_tokens(part, lengths))


def _tokens(part: list[int], lengths: list[int]) -> int:
    return sum(lengths[index] for index in part)
