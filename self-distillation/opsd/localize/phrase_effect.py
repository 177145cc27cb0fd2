"""What the phrase does: the same y under P_0, P_1, no phrase and a neutral sentence."""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from opsd.localize.records import ScoredResponse
from opsd.localize.variants import ACTUAL, NEUTRAL, NO_PHRASE, P_0, P_1

VARIANTS = (P_0, P_1, NO_PHRASE, NEUTRAL)
TABLE_ROWS = 20
MIN_COUNT = 3  # occurrences of a token that enters the table


def phrase_effect(
    responses: Sequence[ScoredResponse], r: int, text_of: Callable[[int], str]
) -> dict[str, Any] | None:
    """Of the responses with reward r; None without any, or without COMPARE_PHRASES.

    `kl`: by variant, the student's KL per token from the teacher under it; `logprob`: of y's tokens under it;
    `moved`: KL per token of the teacher under training's phrase from the teacher under the variant;
    `moved_tokens`: the tokens of y that the phrase moves most against the neutral sentence.
    """
    chosen = [response for response in responses if response.r == r and response.variants]
    if not chosen:
        return None
    actual = ACTUAL[r]
    others = [name for name in VARIANTS if name != actual]
    kl = {actual: _mean([response.kl for response in chosen])}
    logprob = {actual: _mean([response.teacher_logprob for response in chosen])}
    for name in others:
        kl[name] = _mean([response.variants[name].kl for response in chosen])
        logprob[name] = _mean([response.variants[name].logprob for response in chosen])
    return {
        "phrase": actual,
        "responses": len(chosen),
        "kl": {name: kl[name] for name in VARIANTS},
        "logprob": {name: logprob[name] for name in VARIANTS},
        "moved": {name: _mean([response.variants[name].moved for response in chosen]) for name in others},
        "moved_tokens": moved_tokens(chosen, text_of),
    }


def moved_tokens(responses: Sequence[ScoredResponse], text_of: Callable[[int], str]) -> list[dict[str, Any]]:
    """The tokens of y with the highest mean KL of the teacher under the phrase from the one under the neutral
    sentence; `instead`: what the teacher would most often write there. Rare tokens only where there are no others.
    """
    moved: dict[str, list[float]] = defaultdict(list)
    change: dict[str, list[float]] = defaultdict(list)
    instead: dict[str, Counter[int]] = defaultdict(Counter)
    for response in responses:
        neutral = response.variants[NEUTRAL]
        for index, text in enumerate(response.tokens):
            moved[text].append(neutral.moved[index])
            change[text].append(response.teacher_logprob[index] - neutral.logprob[index])
            if response.teacher_rank[index] > 1:
                best = max(response.alternatives[index], key=lambda alternative: alternative[2])
                instead[text][best[0]] += 1
    frequent = [text for text, values in moved.items() if len(values) >= MIN_COUNT] or list(moved)
    frequent.sort(key=lambda text: -float(np.mean(moved[text])))
    total = sum(map(sum, moved.values()))
    return [
        {
            "token": text,
            "count": len(moved[text]),
            "moved": float(np.mean(moved[text])),
            "share": sum(moved[text]) / total if total > 0 else 0.0,
            "logprob_change": float(np.mean(change[text])),
            "instead": text_of(instead[text].most_common(1)[0][0]) if instead[text] else None,
            "instead_share": sum(instead[text].values()) / len(moved[text]),
        }
        for text in frequent[:TABLE_ROWS]
    ]


def _mean(values: list[list[float]]) -> float:
    """Over all tokens of all responses."""
    return float(np.concatenate(values).mean())
