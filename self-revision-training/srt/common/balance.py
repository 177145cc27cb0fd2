"""Split work into parts of nearly equal cost: passes of an optimizer step, and the processes that make them."""

import heapq
import math
from collections.abc import Sequence


def balance(items: Sequence[int], cost: Sequence[float], num_parts: int) -> list[list[int]]:
    """Split `items`, which are indices of `cost`, into parts of nearly equal cost, the most expensive part first.

    Greedy: the most expensive remaining item goes to the cheapest part.
    """
    heap: list[tuple[float, int]] = [(0, part) for part in range(num_parts)]
    parts: list[list[int]] = [[] for _ in range(num_parts)]
    for index in sorted(items, key=lambda index: -cost[index]):
        total, part = heapq.heappop(heap)
        parts[part].append(index)
        heapq.heappush(heap, (total + cost[index], part))
    return sorted(parts, key=lambda part: -sum(cost[index] for index in part))


def fewest_parts(
    items: Sequence[int],
    lengths: Sequence[int],
    max_tokens: int,
    multiple: int = 1,
    cost: Sequence[float] | None = None,
) -> list[list[int]]:
    """As few parts of nearly equal cost as hold at most `max_tokens` tokens each.

    An item that is longer is a part by itself. Their number is a multiple of `multiple`, so parts may be empty.
    `cost`: of each item; None: its length.
    """
    cost = lengths if cost is None else cost

    def within_limit(part: list[int]) -> bool:
        return len(part) <= 1 or sum(lengths[index] for index in part) <= max_tokens

    total = sum(min(lengths[index], max_tokens) for index in items)
    rounds = max(1, math.ceil(total / (max_tokens * multiple)))  # fewer cannot hold them
    while not all(map(within_limit, parts := balance(items, cost, rounds * multiple))):
        rounds += 1
    return parts
