"""Bootstrap over problems: responses to one problem are not independent, so problems are what is resampled.

A metric is a function of weights, one for each problem: with weights 1 it is the estimate, and with the number of
times that each problem was drawn it is a bootstrap draw. Two models with the same weights are compared in pairs.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

DRAWS = 2000
LEVELS = (0.025, 0.975)


class Metric(Protocol):
    def of(self, weights: np.ndarray) -> np.ndarray:
        """(draws, problems) weights -> (draws,) values; NaN where the weighted problems have none."""
        ...


@dataclass(frozen=True)
class Ratio:
    """A mean: the sum of `numerators` by the sum of `denominators`, each (problems,)."""

    numerators: np.ndarray
    denominators: np.ndarray

    def of(self, weights: np.ndarray) -> np.ndarray:
        numerators, denominators = weights @ self.numerators, weights @ self.denominators
        return _divide(numerators, denominators)


@dataclass(frozen=True)
class Gain:
    """By how much `after` exceeds `before`, for each unit by which `cost_after` exceeds `cost_before`."""

    after: Ratio
    before: Ratio
    cost_after: Ratio
    cost_before: Ratio

    def of(self, weights: np.ndarray) -> np.ndarray:
        cost = self.cost_after.of(weights) - self.cost_before.of(weights)
        gain = self.after.of(weights) - self.before.of(weights)
        return _divide(gain, cost)


@dataclass(frozen=True)
class Percentile:
    """The smallest of `values` (samples,) that at least a `share` of them do not exceed.

    `problem`: the index of each value's problem among the weights.
    """

    values: np.ndarray
    problem: np.ndarray
    share: float

    def of(self, weights: np.ndarray) -> np.ndarray:
        order = np.argsort(self.values, kind="stable")
        values, problem = self.values[order], self.problem[order]
        result = np.empty(len(weights))
        for draw, of_problem in enumerate(weights):  # (draws, samples) at once would be gigabytes
            cumulative = of_problem[problem].cumsum()
            place = np.searchsorted(cumulative, self.share * cumulative[-1] * (1 - 1e-12))
            result[draw] = values[min(place, len(values) - 1)]
        return result


def _divide(numerators: np.ndarray, denominators: np.ndarray) -> np.ndarray:
    """NaN where a denominator is not positive."""
    nothing = np.full(len(numerators), np.nan)
    return np.divide(numerators, denominators, out=nothing, where=denominators > 0, dtype=float)


def bootstrap_weights(num_problems: int, seed: int) -> np.ndarray:
    """How often each problem is drawn when as many are drawn with replacement: (DRAWS, problems)."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(num_problems, np.full(num_problems, 1 / num_problems), size=DRAWS).astype(float)


def point(metric: Metric, num_problems: int) -> float | None:
    return _number(metric.of(np.ones((1, num_problems)))[0])


def interval(draws: np.ndarray) -> list[float] | None:
    """The 95% interval of bootstrap draws; None if no draw has a value."""
    draws = draws[~np.isnan(draws)]
    return [float(level) for level in np.quantile(draws, LEVELS)] if len(draws) else None


def bootstrap_interval(values: np.ndarray, seed: int) -> list[float] | None:
    """The 95% interval of the mean of `values`, one for each problem."""
    return interval(Ratio(values, np.ones(len(values))).of(bootstrap_weights(len(values), seed)))


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
