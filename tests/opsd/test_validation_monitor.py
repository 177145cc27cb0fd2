"""Warnings about what a rising accuracy hides: forgotten revising, lost solutions, identical responses."""

import pytest

from opsd.metrics import validation_metrics
from opsd.rollouts import Rollout
from opsd.run_log import RunLog
from opsd.validation_monitor import ValidationMonitor
from srt.common.progress import Progress
from tests.opsd.helpers.problems import PROBLEMS

FIRST = {
    "step": -1,
    "avg_at_k": 0.5,
    "pass_at_k": 0.9,
    "problems": 100,
    "entropy": 0.4,
    "revise_r1": 0.966,
    "revisions_r1": 88,
    "response_tokens": 10.0,
    "truncated": 0.0,
}
LATER = FIRST | {"step": 49, "avg_at_k": 0.7}
FALLS = {
    "revise": (
        {"revise_r1": 0.337, "revisions_r1": 92},
        ["keeps 33.7% of them right, 96.6% before", "SRT_REPLAY"],
    ),
    "pass": ({"pass_at_k": 0.7}, ["pass@k) fell to 70.0%, from 90.0% before the first step"]),
    "entropy": ({"entropy": 0.05}, ["fell to 0.0500 nats per token, from 0.4000", "identical"]),
}


@pytest.mark.parametrize("name", FALLS)
def test_a_fall_is_named_once_and_again_when_it_comes_back(name):
    change, words = FALLS[name]
    monitor = ValidationMonitor()
    lines = [FIRST, LATER, LATER | change, LATER | change, LATER, LATER | change]
    given = [monitor.check(line) for line in lines]
    assert [len(warnings) for warnings in given] == [0, 0, 1, 0, 0, 1]
    assert all(word in given[2][0] for word in words)


@pytest.mark.parametrize(
    "change",
    [
        {"revise_r1": 0.90},
        {"revise_r1": 0.5, "revisions_r1": 10},  # five of ten are no evidence
        {"revise_r1": None, "revisions_r1": 0},
        {"pass_at_k": 0.82},
        {"pass_at_k": 0.7, "problems": 10},
        {"entropy": 0.2},
        {"entropy": None, "pass_at_k": None},
    ],
)
def test_small_falls_and_falls_by_chance_are_none(change):
    monitor = ValidationMonitor()
    assert monitor.check(FIRST) == monitor.check(LATER | change) == []


def test_the_fall_is_from_the_best_validation_not_from_the_first():
    monitor = ValidationMonitor()
    for line in (FIRST | {"pass_at_k": 0.6}, LATER | {"pass_at_k": 0.9}):
        assert monitor.check(line) == []
    (warning,) = monitor.check(LATER | {"step": 99, "pass_at_k": 0.6})
    assert "from 90.0% after step 50" in warning


def test_lines_of_earlier_versions_have_no_pass_and_no_entropy():
    old = {name: FIRST[name] for name in ("step", "avg_at_k", "response_tokens", "truncated")}
    monitor = ValidationMonitor()
    assert monitor.check(old) == monitor.check(LATER) == []


def test_pass_at_k_counts_problems_and_entropy_counts_tokens():
    def rollout(problem, r, logprobs):
        return Rollout(problem, [1], [2] * len(logprobs), logprobs, "stop", r)

    metrics = validation_metrics(
        [
            rollout(PROBLEMS[0], 1, [-1.0]),
            rollout(PROBLEMS[0], 0, [-3.0, -2.0]),
            rollout(PROBLEMS[1], 0, [-1.0]),
            rollout(PROBLEMS[1], 0, [-1.0]),
        ]
    )
    assert (metrics["avg_at_k"], metrics["pass_at_k"], metrics["problems"]) == (0.25, 0.5, 2)
    assert metrics["entropy"] == pytest.approx(8 / 5)
    assert "reward" not in metrics


def test_a_run_prints_the_warning_and_a_resumed_one_does_not_repeat_it(make_run, coin_checkpoint, capsys):
    run = make_run(coin_checkpoint, PROBLEMS, validation=PROBLEMS[:2])
    fallen = LATER | FALLS["revise"][0]
    for start_step, lines, expected in ((0, [FIRST, fallen], 1), (60, [fallen | {"step": 99}], 0)):
        log = RunLog(run, start_step, Progress("step"))
        for line in lines:
            log.validation(line)
        log.close()
        assert capsys.readouterr().out.count("warning, step 50: asked to rephrase") == expected
