"""Warnings about a run that goes wrong."""

import pytest

from opsd.monitors import WINDOW, HealthMonitor, check_reviser, require_on_policy
from srt.common.errors import UserError

HEALTHY = {"kl_r0": 0.3, "kl_r1": 0.1, "entropy": 0.5, "logprob_gap": 0.001, "reward": 0.6, "rollouts": 128}
ILL = {
    "kl": ({"kl_r0": 0.1, "kl_r1": 0.5}, ["right responses", "REVISE_CORRECT=1"]),
    "entropy": ({"entropy": 0.01}, ["entropy fell", "LR"]),
    "gap": ({"logprob_gap": 0.3}, ["sampler and trainer", "stale weights or another precision"]),
    "gap that grows": ({"logprob_gap": 0.03}, ["sampler and trainer", "in the first steps by 0.001"]),
    "reward": ({"reward": 0.5}, ["the reward fell to", "from 60.0%", "STOP_ON_COLLAPSE"]),
}


def test_healthy_figures_give_no_warning():
    health = HealthMonitor()
    assert [health.check(HEALTHY) for _ in range(30)] == [[]] * 30


@pytest.mark.parametrize("name", ILL)
def test_each_warning_is_given_once_when_it_starts_and_says_what_to_look_at(name):
    change, words = ILL[name]
    health = HealthMonitor()
    for _ in range(WINDOW):
        health.check(HEALTHY)
    given = [warning for _ in range(3 * WINDOW) for warning in health.check(HEALTHY | change)]
    assert len(given) == 1
    assert all(word in given[0] for word in words)


@pytest.mark.parametrize("name", ILL)
def test_a_warning_is_given_again_when_its_trouble_comes_back(name):
    change, _ = ILL[name]
    health = HealthMonitor()
    for _ in range(WINDOW):
        health.check(HEALTHY)
    counts = [
        sum(len(health.check(figures)) for _ in range(3 * WINDOW))
        for figures in (HEALTHY | change, HEALTHY, HEALTHY | change)
    ]
    assert counts == [1, 0, 1]


def test_a_sampler_that_drifts_is_seen_when_all_tokens_but_the_first_steps_are_one_update_old():
    """As with ROLLOUT_AHEAD."""
    old = {name: value for name, value in HEALTHY.items() if name != "logprob_gap"}
    health = HealthMonitor()
    given = [health.check(HEALTHY)]
    given += [health.check(old | {"logprob_gap_age1": gap}) for gap in [0.004] * 15 + [0.3] * 15]
    assert given[:16] == [[]] * 16
    (warning,) = sum(given, [])
    assert "sampler and trainer disagree" in warning and "in the first steps by 0.004" in warning


def test_a_step_in_which_requests_waited_for_the_cache_is_said_once():
    waited = {"waited_for_cache": 0.25, "preemptions": 3, "requests_waiting": 41, "requests_running": 87.6}
    free = {"waited_for_cache": 0.0, "preemptions": 0, "requests_waiting": 41, "requests_running": 87.6}
    health = HealthMonitor()
    given = [health.check(HEALTHY | step) for step in ({}, free, waited, waited, free, waited)]
    assert [len(warnings) for warnings in given] == [0, 0, 1, 0, 0, 1]
    assert all(word in given[2][0] for word in ("in 25% of", "up to 41", "3 were preempted", "88 ran"))


def test_a_slow_fall_of_the_reward_is_seen_when_it_is_larger_than_chance():
    """A run that goes down by a point every other step, at a KL that looks harmless."""
    warned = {}
    for rollouts in (128, 8):
        health = HealthMonitor()
        steps = [health.check(HEALTHY | {"reward": 0.6 - step / 200, "rollouts": rollouts}) for step in range(60)]
        warned[rollouts] = [step for step, warnings in enumerate(steps) if warnings]
    assert len(warned[128]) == len(warned[8]) == 1
    assert warned[128][0] < 30 < warned[8][0]  # ten steps of 8 responses say less than ten of 128


@pytest.mark.parametrize(
    ("kept", "count", "warned"), [(0.6, 50, True), (0.9, 50, False), (0.6, 5, False), (None, 0, False)]
)
def test_a_teacher_that_changes_right_answers_is_named_before_it_teaches(kept, count, warned):
    warning = check_reviser({"revise_r1": kept, "revisions_r1": count})
    assert (warning is not None) == warned
    assert not warned or "keeps only 60.0% of them right" in warning


@pytest.mark.parametrize(
    ("steps", "responses", "warned"), [(1, 8, 0), (9, 128, 0), (10, 4, 0), (10, 8, 1), (20, 8, 1)]
)
def test_the_disagreement_with_right_responses_needs_a_window_of_evidence(steps, responses, warned):
    """A step of 8 responses has a few right ones, and a reviser may disagree with those by chance."""
    health = HealthMonitor()
    figures = HEALTHY | {"kl_r0": 0.1, "kl_r1": 0.5, "rollouts": responses}
    assert sum(len(health.check(figures)) for _ in range(steps)) == warned


def test_one_odd_step_among_healthy_ones_is_no_trouble():
    health = HealthMonitor()
    for _ in range(WINDOW):
        health.check(HEALTHY)
    assert health.check(HEALTHY | {"kl_r1": 0.9}) == []


def test_a_large_ratio_of_negligible_figures_is_no_trouble():
    assert HealthMonitor().check(HEALTHY | {"kl_r0": 0.0001, "kl_r1": 0.01}) == []


def test_steps_without_right_or_without_wrong_responses_are_no_trouble():
    health = HealthMonitor()
    only_right = {name: value for name, value in HEALTHY.items() if name != "kl_r0"}
    assert health.check(only_right | {"kl_r1": 0.5}) == []
    assert health.check({"kl_r0": None, "entropy": None}) == []


@pytest.mark.parametrize("gap", [0.6, 5.0, float("nan")])
def test_a_sampler_that_is_another_model_ends_the_run(gap):
    with pytest.raises(UserError, match="in the first step, 0.5 at most are expected"):
        require_on_policy(HEALTHY | {"logprob_gap": gap})
    for fine in (0.0, 0.05, 0.5, None):
        require_on_policy(HEALTHY | {"logprob_gap": fine})
