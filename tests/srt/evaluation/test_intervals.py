"""The bootstrap over problems."""

import numpy as np
import pytest

from srt.evaluation.intervals import (
    DRAWS,
    Percentile,
    Ratio,
    bootstrap_interval,
    bootstrap_weights,
    interval,
    point,
)
from tests.srt.helpers.evaluated import metrics_of_samples, responses_of


@pytest.mark.parametrize("seed", range(5))
def test_the_interval_holds_the_mean_and_stays_within_0_and_1(seed):
    rewards = np.random.default_rng(seed).integers(0, 2, size=(40, 8))
    metrics = metrics_of_samples(responses_of(rewards), k=8, seed=seed)
    low, high = metrics["avg_at_k_interval"]
    assert 0 <= low < metrics["avg_at_k"] < high <= 1


def test_the_interval_depends_on_the_seed():
    values = np.random.default_rng(0).random(50)
    assert bootstrap_interval(values, 1) == bootstrap_interval(values, 1)
    assert bootstrap_interval(values, 1) != bootstrap_interval(values, 2)


def test_the_interval_is_that_of_the_mean_over_problems():
    """With many problems it approaches the normal interval, mean +- 1.96 standard errors."""
    values = np.random.default_rng(0).random(400)
    low, high = bootstrap_interval(values, 0)
    error = values.std() / len(values) ** 0.5
    assert low == pytest.approx(values.mean() - 1.96 * error, abs=0.15 * error)
    assert high == pytest.approx(values.mean() + 1.96 * error, abs=0.15 * error)


def test_responses_to_one_problem_are_not_independent():
    """Eight equal responses per problem are no more evidence than one."""
    once = metrics_of_samples(responses_of([[i % 2] for i in range(40)]), k=1)
    eight = metrics_of_samples(responses_of([[i % 2] * 8 for i in range(40)]), k=8)
    assert eight["avg_at_k_interval"] == once["avg_at_k_interval"]


def test_equal_values_have_an_interval_of_width_zero():
    assert bootstrap_interval(np.ones(10), 0) == pytest.approx((1.0, 1.0))


def test_the_weights_draw_as_many_problems_as_there_are():
    weights = bootstrap_weights(7, 0)
    assert weights.shape == (DRAWS, 7)
    assert (weights.sum(axis=1) == 7).all() and weights.var() > 0.5


def test_a_ratio_is_of_sums_not_a_mean_of_ratios():
    ratio = Ratio(np.array([10.0, 1.0]), np.array([10.0, 2.0]))
    assert point(ratio, 2) == pytest.approx(11 / 12)
    assert ratio.of(np.array([[0.0, 2.0]])) == pytest.approx([0.5])


def test_a_ratio_without_samples_has_no_value_and_no_interval():
    empty = Ratio(np.zeros(3), np.zeros(3))
    assert point(empty, 3) is None
    assert interval(empty.of(bootstrap_weights(3, 0))) is None


def test_draws_without_a_value_do_not_count():
    """Only one problem has revisions: it is missing from many draws, and all others have its value."""
    rare = Ratio(np.array([3.0, 0, 0]), np.array([4.0, 0, 0]))
    draws = rare.of(bootstrap_weights(3, 0))
    assert np.isnan(draws).any()
    assert interval(draws) == [0.75, 0.75]


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
def test_percentiles_are_those_of_the_drawn_samples(share):
    rng = np.random.default_rng(1)
    values, problem = rng.integers(0, 50, size=60), np.repeat(np.arange(6), 10)
    weights = bootstrap_weights(6, 0)[:50]
    estimates = Percentile(values, problem, share).of(weights)
    for draw, estimate in zip(weights.astype(int), estimates, strict=True):
        drawn = np.repeat(values, draw[problem])
        assert estimate == np.quantile(drawn, share, method="inverted_cdf")
