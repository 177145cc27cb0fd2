"""The metrics of a step and the logs they are written to."""

import json
import math
from dataclasses import replace

import pytest
import torch

from opsd.kl import KLOutput
from opsd.metrics import TokenMetrics, rollout_metrics
from opsd.pairs import build_pair
from opsd.run_log import MetricsLog, open_step_log, step_line
from srt.common.files import JsonlLog, read_jsonl


def output(token_kl):
    kl = torch.tensor(token_kl)
    return KLOutput(
        loss=kl.sum(),
        token_kl=kl,
        student_entropy=2 * kl,
        teacher_entropy=3 * kl,
        student_logprob=-1.0 - kl,  # the sampler's were -1
        teacher_logprob=-kl,
        top1_agreement=kl > 0.5,
    )


@pytest.fixture
def pairs(make_rollout, layout):
    """Three pairs of 2 (right), 4 (wrong) and 3 (right) tokens, end of turn included."""
    texts = [("1", 1), ("1 2 3", 0), ("1 2", 1)]
    pairs = [build_pair(make_rollout(text, r), layout, 1000) for text, r in texts]
    assert [len(pair.targets) for pair in pairs] == [2, 4, 3]
    return pairs


def test_the_line_of_a_step_names_a_reward_that_no_response_has():
    metrics = {
        "reward": 1.0,
        "kl": 0.00151,
        "kl_r1": 0.00151,
        "response_tokens": 34.0,
        "seconds": {"student": 2.0},
    }
    line = step_line(79, 80, metrics)
    assert line == "step 79/80: reward 100.0%, KL 0.0015 (r0 none, r1 0.0015), 34 tokens, 2.0 s (student 100%)"


def test_means_are_over_tokens_apart_for_right_and_wrong(pairs):
    metrics = TokenMetrics(
        [(pairs[:2], output([1.0, 2.0, 0.1, 0.2, 0.3, 0.4])), (pairs[2:], output([0.0, 0.0, 3.0]))]
    )
    means = metrics.means()
    assert means["kl"] == pytest.approx(7.0 / 9)
    assert means["kl_r0"] == pytest.approx(1.0 / 4)
    assert means["kl_r1"] == pytest.approx(6.0 / 5)  # not the mean of the two responses' means
    assert means["top1_agreement"] == pytest.approx(3 / 9)
    assert means["top1_agreement_r1"] == pytest.approx(3 / 5)
    assert means["entropy_r0"] == pytest.approx(2.0 / 4)
    assert means["teacher_entropy_r1"] == pytest.approx(18.0 / 5)
    assert means["logprob_gap"] == pytest.approx(7.0 / 9)


def test_the_dropped_vocab_fraction_is_averaged_over_tokens(pairs):
    metrics = TokenMetrics(
        [
            (pairs[:1], replace(output([0.0] * 2), dropped_vocab_fraction=0.9)),
            (pairs[1:2], replace(output([0.0] * 4), dropped_vocab_fraction=0.3)),
        ]
    )
    assert metrics.means()["dropped_vocab_fraction"] == pytest.approx(0.5)


def test_log_prob_gap_does_not_cancel(pairs):
    metrics = TokenMetrics([(pairs[:1], output([0.5, -0.5]))])
    assert metrics.means()["logprob_gap"] == pytest.approx(0.5)


def test_log_prob_gap_of_a_shortened_response_is_over_what_is_left(make_rollout, layout):
    rollout = make_rollout("1 2 3 4 5 6")
    pair = build_pair(rollout, layout, len(rollout.chat) + len(layout.cue(0)) + 6)
    metrics = TokenMetrics([([pair], output([1.0, 1.0, 1.0]))])
    assert metrics.tokens["logprob_gap"] == 3


def test_the_log_prob_gap_is_of_tokens_of_the_current_weights_and_apart_for_older_ones(pairs):
    older = replace(pairs[1], rollout=replace(pairs[1].rollout, ages=[2, 1, 1, 0]))
    means = TokenMetrics([([pairs[0], older], output([0.1, 0.3, 8.0, 1.0, 3.0, 0.5]))]).means()
    assert means["logprob_gap"] == pytest.approx((0.1 + 0.3 + 0.5) / 3)
    assert means["logprob_gap_r0"] == pytest.approx(0.5)
    assert means["logprob_gap_age1"] == pytest.approx(2.0)
    assert means["logprob_gap_age2"] == pytest.approx(8.0)
    assert means["kl_r0"] == pytest.approx(12.5 / 4)  # of tokens of every age


def test_a_step_of_right_responses_alone_has_no_metrics_for_wrong_ones(pairs):
    metrics = TokenMetrics([(pairs[:1], output([1.0, 2.0]))])
    assert "kl_r1" in metrics.means() and "kl_r0" not in metrics.means()


def test_rollout_metrics_are_means_over_responses(make_rollout):
    rollouts = [make_rollout("1", 1), make_rollout("1 2 3", 0), make_rollout("1 2 3", 0, finish_reason="length")]
    assert rollout_metrics(rollouts) == {
        "reward": 1 / 3,
        "response_tokens": 3.0,
        "response_tokens_p90": 4,
        "truncated": 1 / 3,
    }


def test_lines_of_steps_that_are_made_again_are_dropped(tmp_path):
    log = MetricsLog(tmp_path, 0, "none")
    for step in range(5):
        log.write(step, {"kl": float(step)})
    log.close()
    log = MetricsLog(tmp_path, 3, "none")
    assert [line["step"] for line in log.earlier] == [0, 1, 2]
    log.write(3, {"kl": 30.0})
    log.close()
    assert [line["kl"] for line in read_jsonl(tmp_path / "metrics.jsonl")] == [0.0, 1.0, 2.0, 30.0]


def test_a_torn_last_line_is_repaired(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step":0,"kl":1.0}\n{"step":1,"k')
    log = MetricsLog(tmp_path, 1, "none")
    log.write(1, {"kl": 2.0})
    log.close()
    assert read_jsonl(tmp_path / "metrics.jsonl") == [{"step": 0, "kl": 1.0}, {"step": 1, "kl": 2.0}]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("report_to", ["none", "tensorboard"])
def test_a_metric_that_is_not_finite_leaves_valid_json(tmp_path, value, report_to):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    log = MetricsLog(tmp_path, 0, report_to)
    log.write(0, {"kl": value, "seconds": {"rollouts": 1.0}, "reward": 0.5})
    log.close()
    line = json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=refuse)
    assert line == {"step": 0, "kl": None, "seconds": {"rollouts": 1.0}, "reward": 0.5}


def test_tensorboard_shows_a_step_that_was_made_again_once(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for first_step, kl in ((0, 1.0), (1, 2.0)):
        log = MetricsLog(tmp_path, first_step, "tensorboard")
        for step in range(first_step, 3):
            log.write(step, {"kl": kl})
        log.close()
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    assert [(event.step, event.value) for event in board.Scalars("kl")] == [(0, 1.0), (1, 2.0), (2, 2.0)]


def test_every_step_log_drops_what_is_made_again(tmp_path):
    path = tmp_path / "samples.jsonl"
    log = JsonlLog(path)
    for step in (0, 0, 2, 2):
        log.append({"step": step})
    log.close()
    open_step_log(path, 2).close()
    assert read_jsonl(path) == [{"step": 0}, {"step": 0}]


def test_a_log_of_an_earlier_version_is_read_under_the_current_names(tmp_path):
    line = {"step": 0, "kl": 1.0, "agreement": 0.5, "agreement_r0": 0.25, "dropped_columns": 0.9}
    (tmp_path / "metrics.jsonl").write_text(
        json.dumps(line | {"seconds": {"refresh": 2.0, "student": 1.0}}) + "\n"
    )
    log = MetricsLog(tmp_path, 1, "none")
    log.close()
    assert log.earlier == [
        {
            "step": 0,
            "kl": 1.0,
            "top1_agreement": 0.5,
            "top1_agreement_r0": 0.25,
            "dropped_vocab_fraction": 0.9,
            "seconds": {"weight_sync": 2.0, "student": 1.0},
        }
    ]
