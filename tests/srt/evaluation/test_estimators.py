"""pass@k and majority@k against all subsets of the samples, one by one."""

from collections import Counter
from itertools import combinations

import numpy as np
import pytest

from srt.evaluation.estimators import majority_at_k, pass_at_k


@pytest.mark.parametrize(("n", "correct"), [(1, 0), (1, 1), (5, 0), (5, 2), (6, 5), (6, 6)])
def test_pass_at_k_is_the_share_of_subsets_with_a_correct_sample(n, correct):
    verdicts = [i < correct for i in range(n)]
    for k in range(1, n + 1):
        shares = [any(subset) for subset in combinations(verdicts, k)]
        assert pass_at_k(n, correct, k) == pytest.approx(np.mean(shares))


def test_pass_at_1_is_the_accuracy_and_large_counts_stay_exact():
    assert pass_at_k(8, 3, 1) == pytest.approx(3 / 8)
    assert 0 < 1 - pass_at_k(2000, 1000, 100) < 1e-29 or pass_at_k(2000, 1000, 100) == 1.0
    assert pass_at_k(10_000, 1, 5000) == pytest.approx(0.5)


def test_pass_at_k_with_fewer_samples_than_k_uses_those_there_are():
    assert pass_at_k(3, 1, 8) == 1.0 and pass_at_k(3, 0, 8) == 0.0


def majority_of_subset(votes, correct, subset):
    """The probability that a winner, drawn among the tied answers, is correct."""
    counts = Counter(votes[i] for i in subset if votes[i] is not None)
    if not counts:
        return 0.0
    winners = [answer for answer, count in counts.items() if count == max(counts.values())]
    right = {vote for vote, c in zip(votes, correct, strict=True) if c}
    return sum(answer in right for answer in winners) / len(winners)


@pytest.mark.parametrize(
    "votes",
    [
        ["7", "8", "7", "9", "8", "7"],  # 7 is right
        ["8", "8", "7", None, None],
        ["7"],
        ["8", "9", "7", "7", "8", "6"],
    ],
)
def test_majority_at_k_is_the_mean_over_subsets(votes):
    correct = [vote == "7" for vote in votes]
    estimates = majority_at_k(votes, correct, [0, 1])
    for k in range(1, len(votes) + 1):
        subsets = list(combinations(range(len(votes)), k))
        expected = np.mean([majority_of_subset(votes, correct, subset) for subset in subsets])
        exact = k in (1, len(votes))
        assert estimates[k - 1] == pytest.approx(expected, abs=1e-12 if exact else 0.08)


def test_samples_without_an_answer_do_not_vote_and_cannot_win():
    assert majority_at_k([None, None], [False, False], [0]).tolist() == [0, 0]
    assert majority_at_k([None, "7", None], [False, True, False], [0])[-1] == 1


def test_majority_depends_on_nothing_but_votes_and_seed():
    votes, correct = ["7", "8", "9", "7"], [True, False, False, True]
    first, again = (majority_at_k(votes, correct, [3, 1]) for _ in range(2))
    assert first.tolist() == again.tolist()
    assert majority_at_k(votes, correct, [3, 2]).tolist() != first.tolist()
