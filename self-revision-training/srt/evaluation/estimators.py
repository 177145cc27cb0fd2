"""Estimates from the samples of one problem: pass@k and majority@k for every k."""

import math
from collections.abc import Hashable, Sequence

import numpy as np

SHUFFLES = 256  # orders of the samples over which majority@k is averaged


def pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
    """The probability that a random subset of k of the samples contains a correct one.

    The unbiased estimate of Chen et al. 2021 (arXiv:2107.03374, section 2.1), 1 - C(n - c, k) / C(n, k), in exact
    integers. Where fewer than k samples could be graded, k is their number.
    """
    k = min(k, num_samples)
    return 1 - math.comb(num_samples - num_correct, k) / math.comb(num_samples, k)


def majority_at_k(votes: Sequence[Hashable | None], correct: Sequence[bool], seed: Sequence[int]) -> np.ndarray:
    """For k = 1 to n, the probability that the most frequent answer of k of the n samples is correct: (n,).

    `votes`: the answer of each sample, None for one that has none and does not vote. Equal votes have equal
    verdicts. Of answers that tie, each wins with the same probability; if nobody votes, the result is wrong. The
    mean over SHUFFLES random orders, of which the first k samples are taken; exact for k = 1 and k = n.
    """
    n = len(votes)
    answers = list(dict.fromkeys(vote for vote in votes if vote is not None))
    if not answers:
        return np.zeros(n)
    one_hot = np.array([[vote == answer for answer in answers] for vote in votes], dtype=int)  # (n, answers)
    right = np.array([any(c for v, c in zip(votes, correct, strict=True) if v == a) for a in answers])
    rng = np.random.default_rng(seed)
    orders = rng.permuted(np.tile(np.arange(n), (SHUFFLES, 1)), axis=1)
    counts = one_hot[orders].cumsum(axis=1)  # (SHUFFLES, n, answers)
    most = counts.max(axis=2, keepdims=True)
    winners = (counts == most) & (most > 0)
    shares = (winners & right).sum(axis=2) / np.maximum(winners.sum(axis=2), 1)  # (SHUFFLES, n)
    estimate = shares.mean(axis=0)
    estimate[0] = np.mean([bool(c) and v is not None for v, c in zip(votes, correct, strict=True)])
    return estimate
