"""How far off-policy a run with OVER_ISSUE or ROLLOUT_AHEAD is: the age of the tokens that it trains on."""

from collections.abc import Iterable, Mapping
from typing import Any

from opsd.rollouts import Rollout
from srt.contract import metrics as names


def age_metrics(rollouts: list[Rollout]) -> dict[str, float]:
    """Of a step, over the tokens of y; empty without any."""
    ages = [age for rollout in rollouts for age in rollout.ages or [0] * len(rollout.y)]
    if not ages:
        return {}
    return {
        names.TOKEN_AGE: sum(ages) / len(ages),
        names.TOKEN_AGE_MAX: max(ages),
        names.STALE_TOKENS: sum(age > 0 for age in ages) / len(ages),
    }


def off_policy(lines: Iterable[Mapping[str, Any]]) -> dict[str, float] | None:
    """The same of a whole run, from the lines of metrics.jsonl; None when it was strictly on-policy by its
    configuration."""
    weighted = [
        (line[names.ROLLOUTS] * line[names.RESPONSE_TOKENS], line) for line in lines if names.STALE_TOKENS in line
    ]
    tokens = sum(weight for weight, _ in weighted)
    if not tokens:
        return None
    means = {
        name: sum(weight * line[name] for weight, line in weighted) / tokens
        for name in (names.TOKEN_AGE, names.STALE_TOKENS)
    }
    return means | {names.TOKEN_AGE_MAX: max(line[names.TOKEN_AGE_MAX] for _, line in weighted)}


def off_policy_line(measured: Mapping[str, float]) -> str:
    """12.3% of the tokens were drawn by the weights of earlier steps (0.15 steps old on average, 3 at most)"""
    return (
        f"{measured[names.STALE_TOKENS]:.1%} of the tokens were drawn by the weights of earlier steps "
        f"({measured[names.TOKEN_AGE]:.2f} steps old on average, {measured[names.TOKEN_AGE_MAX]:.0f} at most)"
    )
