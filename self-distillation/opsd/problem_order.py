"""Which problems a step uses: a function of seed and step alone, so a resumed run sees the same ones."""

import functools
import math

import numpy as np


class ProblemOrder:
    """Endless shuffled passes over `count` problems, cut into steps of `per_step`."""

    def __init__(self, count: int, per_step: int, seed: int):
        self.count = count
        self.per_step = per_step
        self.seed = seed

    def total_steps(self, max_steps: int, max_epochs: int) -> int:
        return min(max_steps, math.ceil(max_epochs * self.count / self.per_step))

    def epochs(self, finished_steps: int) -> int:
        """Complete passes over the problems after that many steps."""
        return finished_steps * self.per_step // self.count

    def step(self, step: int) -> list[int]:
        """The problem indices of a step (0 is the first)."""
        return [self.at(place) for place in range(step * self.per_step, (step + 1) * self.per_step)]

    def at(self, place: int) -> int:
        """The problem index at a place in the endless order (0 is the first)."""
        return int(self._epoch(place // self.count)[place % self.count])

    @functools.lru_cache(maxsize=4)  # noqa: B019 - lives as long as the run
    def _epoch(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self.seed, epoch]).permutation(self.count)
