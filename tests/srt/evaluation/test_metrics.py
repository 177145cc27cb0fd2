"""The metrics of one model and the differences of two, from samples whose verdicts are known."""

import math

import numpy as np
import pytest

from srt.collect.collector import GREEDY
from srt.evaluation.metrics import differences, entropy_note, normalized_answer
from tests.srt.helpers.evaluated import (
    grouped,
    metrics_of_samples,
    new_response,
    new_revision,
    responses_of,
)

REWARDS = [[1, 1, 1, 1], [0, 0, 1, 0], [0, 0, 0, 0]]


def value(metrics, name):
    return metrics["metrics"][name]["value"]


def test_avg_and_pass_at_k():
    metrics = metrics_of_samples(responses_of(REWARDS), k=4)
    assert metrics["avg_at_k"] == pytest.approx((1 + 0.25 + 0) / 3)
    assert metrics["pass_at_k"] == pytest.approx(2 / 3)
    assert (metrics["problems"], metrics["k"]) == (3, 4)
    assert [value(metrics, f"pass_at_{k}") for k in (1, 2, 4)] == pytest.approx([1.25 / 3, 1.5 / 3, 2 / 3])


def test_every_metric_has_an_interval_around_it():
    rng = np.random.default_rng(0)
    samples = responses_of(rng.integers(0, 2, size=(30, 4)))
    samples = [s._replace(tokens=int(rng.integers(5, 90)), logprob=-rng.random()) for s in samples]
    samples += [new_response(p, GREEDY, p % 2) for p in range(30)]
    samples += [new_revision(p, 0, p % 3 == 0, truncated=p % 4 == 0) for p in range(30)]
    metrics = metrics_of_samples(samples, k=4)["metrics"]
    assert {"pass_at_3", "majority_at_2", "greedy", "entropy", "response_tokens_p99"} < metrics.keys()
    for name, entry in metrics.items():
        low, high = entry["interval"]
        assert low <= entry["value"] <= high, name
    assert metrics["avg_at_k"]["interval"][0] < metrics["avg_at_k"]["interval"][1]


def test_problems_count_alike_when_a_sample_of_one_was_set_aside():
    metrics = metrics_of_samples(responses_of([[1, 1, 1], [0]]), k=3)
    assert metrics["avg_at_k"] == 0.5
    assert value(metrics, "majority_at_3") == 0.5


def test_the_order_of_the_responses_does_not_matter():
    responses = responses_of(REWARDS)
    assert metrics_of_samples(responses, k=4) == metrics_of_samples(responses[::-1], k=4)


def test_length_and_truncation():
    responses = [new_response(0, index, 1, tokens=tokens) for index, tokens in enumerate((2, 3, 4))]
    responses.append(new_response(0, 3, 0, tokens=11, truncated=True))
    metrics = metrics_of_samples(responses, k=4)
    assert metrics["mean_response_tokens"] == 5  # not the median
    assert metrics["truncated"] == 0.25
    assert [value(metrics, f"response_tokens_p{p}") for p in (10, 50, 90)] == [2, 3, 11]


def test_the_majority_may_be_right_where_most_responses_are_wrong():
    """Wrong answers that differ split their votes; the same answer written otherwise does not."""
    split = [new_response(0, 0, 1), new_response(0, 1, 1)]
    split += [new_response(0, i, 0, answer=answer) for i, answer in ((2, "8"), (3, "9"), (4, "10"))]
    assert value(metrics_of_samples(split, k=5), "majority_at_5") == 1
    united = [*split[:2], *(r._replace(answer=a) for r, a in zip(split[2:], ("8", " $8$", "8."), strict=True))]
    assert value(metrics_of_samples(united, k=5), "majority_at_5") == 0
    assert value(metrics_of_samples(split, k=5), "majority_at_1") == pytest.approx(2 / 5)


@pytest.mark.parametrize(("answer", "text"), [(" $ 1 / 2 $.", "1/2"), ("x = 3", "x=3"), ("(A)", "(a)"), ("", "")])
def test_answers_are_the_same_vote_if_only_their_typesetting_differs(answer, text):
    assert normalized_answer(answer) == text


def test_programs_do_not_vote():
    metrics = metrics_of_samples(responses_of(REWARDS), k=4, mode="code")
    assert not [name for name in metrics["metrics"] if name.startswith("majority")]


def test_greedy_is_its_own_metric():
    greedy = [new_response(0, GREEDY, 0), new_response(2, GREEDY, 1)]  # that of problem 1 was set aside
    metrics = metrics_of_samples([*responses_of(REWARDS), *greedy], k=4)
    assert value(metrics, "greedy") == 0.5
    assert metrics["avg_at_k"] == pytest.approx(1.25 / 3)
    assert value(metrics_of_samples(responses_of(REWARDS), k=4), "greedy") is None


def test_entropy_is_per_token():
    responses = [new_response(0, 0, 1, tokens=10, logprob=-2.0), new_response(1, 0, 1, tokens=2, logprob=-3.0)]
    assert value(metrics_of_samples(responses, k=1), "entropy") == pytest.approx(5 / 12)
    unknown = [response._replace(logprob=None) for response in responses]
    assert value(metrics_of_samples([responses[0], unknown[1]], k=1), "entropy") == pytest.approx(2 / 10)
    assert "entropy" not in metrics_of_samples(unknown, k=1)["metrics"]


def test_the_entropy_estimate_is_unbiased():
    """Responses of one token with known probabilities: the mean over samples approaches their entropy."""
    probs = np.array([0.5, 0.3, 0.2])
    drawn = np.random.default_rng(0).choice(3, p=probs, size=20_000)
    responses = [new_response(0, i, 1, tokens=1, logprob=math.log(probs[token])) for i, token in enumerate(drawn)]
    entropy = -(probs * np.log(probs)).sum()
    assert value(metrics_of_samples(responses, k=1, mode="code"), "entropy") == pytest.approx(entropy, 0.01)


def test_the_entropy_note_says_when_the_estimate_is_biased():
    assert "an unbiased estimate" in entropy_note(1.0, 1.0)
    assert "temperature 0.7 and top_p 1, so it is not the entropy" in entropy_note(0.7, 1.0)
    assert "not the entropy" in entropy_note(1.0, 0.9)


# Revisions ----------------------------------------------------------------------------------------------


def test_revisions_are_split_by_the_reward_of_the_response_they_revise():
    revisions = [
        *(new_revision(0, i, right) for i, right in enumerate([1, 1, 1, 0])),  # of right responses
        *(new_revision(1, i, right) for i, right in enumerate([1, 0, 0, 0])),  # of wrong ones, except the third
    ]
    metrics = metrics_of_samples([*responses_of(REWARDS), *revisions], k=4)
    assert (metrics["revisions_r0"], metrics["revisions_r1"]) == (3, 5)
    assert metrics["revise_r0"] == pytest.approx(1 / 3)
    assert metrics["revise_r1"] == pytest.approx(3 / 5)
    assert metrics["revisions_truncated_r0"] == metrics["revisions_truncated_r1"] == 0
    cut = [new_revision(0, 0, 0, truncated=True), new_revision(0, 1, 1), new_revision(1, 0, 0, truncated=True)]
    metrics = metrics_of_samples([*responses_of(REWARDS), *cut], k=4)
    assert (metrics["revisions_truncated_r0"], metrics["revisions_truncated_r1"]) == (1.0, 0.5)


def test_no_revisions_is_not_an_accuracy_of_zero():
    metrics = metrics_of_samples(responses_of(REWARDS), k=4)
    assert metrics["revise_r0"] is None and metrics["revise_r1"] is None
    assert metrics["revisions_truncated_r0"] is None


def test_the_outcome_of_revising():
    """Problem 0: right, then spoilt. Problem 1: wrong, then repaired; one response of it is not revised."""
    samples = [new_response(0, 0, 1, tokens=10), new_revision(0, 0, False, tokens=30)]
    samples += [new_response(1, 0, 0, tokens=20), new_revision(1, 0, True, tokens=40)]
    samples += [new_response(1, 1, 0, tokens=60)]
    metrics = metrics_of_samples(samples, k=2)
    assert metrics["avg_at_k"] == 0.5
    assert value(metrics, "revised") == pytest.approx(2 / 3)
    assert value(metrics, "accuracy_after") == pytest.approx((0 + 0.5) / 2)
    assert value(metrics, "better_of_both") == pytest.approx((1 + 0.5) / 2)
    assert value(metrics, "tokens_after") == pytest.approx(160 / 3)
    gain = (0.25 - 0.5) / ((160 - 90) / 3) * 1000
    assert value(metrics, "gain_per_1000_tokens") == pytest.approx(gain)
    assert "accuracy_after" not in metrics_of_samples(responses_of(REWARDS), k=4)["metrics"]


# Sources and differences --------------------------------------------------------------------------------


def test_metrics_by_source():
    metrics = metrics_of_samples(responses_of(REWARDS), k=4, sources=["a", "b", "b"])
    assert {source: part["problems"] for source, part in metrics["by_source"].items()} == {"a": 1, "b": 2}
    assert value(metrics["by_source"]["b"], "avg_at_k") == pytest.approx(0.125)
    assert value(metrics["by_source"]["a"], "pass_at_4") == 1
    assert metrics_of_samples(responses_of(REWARDS), k=4, sources=["a"] * 3)["by_source"] == {}


def test_differences_are_paired():
    """The second model is better by the same amount on every problem: no interval of one alone is that narrow."""
    rng = np.random.default_rng(0)
    base = [[int(rng.random() < p) for _ in range(3)] + [0] for p in rng.random(40)]
    better = [[*row[:3], 1] for row in base]
    change = differences(grouped(responses_of(better)), grouped(responses_of(base)), 4, "math", 0)
    assert change["problems"] == 40
    assert change["metrics"]["avg_at_k"]["difference"] == pytest.approx(0.25)
    assert change["metrics"]["avg_at_k"]["interval"] == pytest.approx([0.25, 0.25])
    low, high = metrics_of_samples(responses_of(better), 4)["avg_at_k_interval"]
    assert high - low > 0.05


def test_differences_compare_only_problems_that_both_have():
    model = [new_response(0, 0, 1), new_response(1, 0, 1)]
    reference = [new_response(1, 0, 0), new_response(2, 0, 1)]
    change = differences(grouped(model), grouped(reference), 1, "math", 0)
    assert change["problems"] == 1 and change["metrics"]["avg_at_k"]["difference"] == 1
    with pytest.raises(ValueError, match="no problem in common"):
        differences(grouped(model[:1]), grouped(reference), 1, "math", 0)


def test_differences_by_source_and_of_what_only_one_model_has():
    model = responses_of([[1, 1], [1, 0]])
    reference = [*responses_of([[1, 1], [0, 0]]), new_response(0, GREEDY, 1)]
    sides = (grouped(samples, sources=["a", "b"]) for samples in (model, reference))
    change = differences(*sides, 2, "math", 0)
    by_source = {source: part["metrics"]["avg_at_k"]["difference"] for source, part in change["by_source"].items()}
    assert by_source == {"a": 0.0, "b": 0.5}
    assert change["metrics"]["greedy"] == {"difference": None, "interval": None}
