"""Which tuples each update trains on, and how they are split over processes and forward passes.

An update holds a fixed number of tuples, regardless of the number of processes. Every process runs the same number
of passes per update, since sharded training waits for the slowest one. With packing, the tuples of a pass are
concatenated into one packed sequence, and the passes of an update have about the same length; without packing, the
tuples of a pass are padded to the longest.
"""

import heapq
import math
import random
from dataclasses import dataclass


@dataclass(frozen=True)
class BatchPlan:
    """`passes`: the tuples of each forward pass, ordered by update, then pass, then process.

    Pass p of an update on process r is at index (update * passes_per_update + p) * processes + r. An empty pass
    trains on nothing; it only keeps the processes in step.
    """

    passes: list[list[int]]
    passes_per_update: int
    processes: int
    updates: list[list[int]]


def plan_updates(num_tuples: int, epochs: float, tuples_per_update: int, seed: int) -> list[list[int]]:
    """The tuples of each update. Every epoch has a new order, and its last update takes the remainder.

    A fraction of an epoch is that fraction of its updates, rounded up.
    """
    updates_per_epoch = math.ceil(num_tuples / tuples_per_update)
    total = max(1, math.ceil(round(epochs * updates_per_epoch, 6)))
    updates: list[list[int]] = []
    for epoch in range(math.ceil(total / updates_per_epoch)):
        order = list(range(num_tuples))
        random.Random(f"{seed} {epoch}").shuffle(order)
        updates += [order[start : start + tuples_per_update] for start in range(0, num_tuples, tuples_per_update)]
    return updates[:total]


def plan_packed(updates: list[list[int]], lengths: list[int], max_tokens: int, processes: int) -> BatchPlan:
    """Passes of at most `max_tokens` tokens; a longer tuple raises that limit to its own length."""
    limit = max(max_tokens, max(lengths))

    def within_limit(update: list[int], passes: int) -> bool:
        return max(_tokens(part, lengths) for part in _balance(update, lengths, passes * processes)) <= limit

    passes_per_update = 1
    for update in updates:
        while not within_limit(update, passes_per_update):
            passes_per_update += 1
    passes = [part for update in updates for part in _balance(update, lengths, passes_per_update * processes)]
    return BatchPlan(passes, passes_per_update, processes, updates)


def plan_padded(updates: list[list[int]], lengths: list[int], tuples_per_pass: int, processes: int) -> BatchPlan:
    """Passes of at most `tuples_per_pass` tuples of similar length."""
    passes_per_update = max(math.ceil(len(update) / (tuples_per_pass * processes)) for update in updates)
    num_parts = passes_per_update * processes
    passes = []
    for update in updates:
        longest_first = sorted(update, key=lambda index: -lengths[index])
        bounds = [len(update) * part // num_parts for part in range(num_parts + 1)]
        parts = [longest_first[start:end] for start, end in zip(bounds, bounds[1:], strict=False)]
        passes += sorted(parts, key=lambda part: not part)  # empty ones last
    return BatchPlan(passes, passes_per_update, processes, updates)


def _balance(update: list[int], lengths: list[int], num_parts: int) -> list[list[int]]:
    """Split `update` into parts of nearly equal length, longest part first.

    Greedy: the longest remaining tuple goes to the part with the fewest tokens.
    """
    heap = [(0, part) for part in range(num_parts)]
    parts: list[list[int]] = [[] for _ in range(num_parts)]
    for index in sorted(update, key=lambda index: -lengths[index]):
        tokens, part = heapq.heappop(heap)
        parts[part].append(index)
        heapq.heappush(heap, (tokens + lengths[index], part))
    return sorted(parts, key=lambda part: -_tokens(part, lengths))


def _tokens(part: list[int], lengths: list[int]) -> int:
    return sum(lengths[index] for index in part)
