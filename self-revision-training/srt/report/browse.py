"""Model outputs to look through: attempts of the collection, one problem in every stage, responses with their KL.

Each function returns data for browse.js, which shows it as text.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

from srt.report.attempts import Attempts
from srt.report.charts import is_number
from srt.report.data import EvaluatedStage, RunData, record_of

MAX_TEXT = 6000  # characters of a text
MAX_TOKENS = 800  # of a response with its KL
MAX_SAMPLES = 240  # responses with their KL, evenly spaced over the log
OUTCOMES = ("wrong to right", "wrong to wrong", "right to right", "right to wrong", "not revised")

Item = TypeVar("Item")


def evenly_spaced(items: Sequence[Item], count: int) -> list[Item]:
    """At most `count` of the items, evenly spaced over the list."""
    count = min(count, len(items))
    return [items[index * len(items) // count] for index in range(count)]


def shortened(text: object) -> str:
    """A text that is too long without its middle."""
    text = str(text)
    if len(text) <= MAX_TEXT:
        return text
    half = MAX_TEXT // 2
    return f"{text[:half]}\n[{len(text) - 2 * half:,} characters left out]\n{text[-half:]}"


# Attempts of the collection -----------------------------------------------------------------------------


def collection_attempts(run: RunData, count: int) -> dict[str, Any]:
    """{"total": attempts by outcome, "attempts": about `count` of them}, as many of each outcome as there are."""
    by_outcome: dict[str, list[tuple[dict[str, Any], dict[str, Any] | None]]] = {}
    for pair in _pairs(run.attempts):
        by_outcome.setdefault(_outcome(*pair), []).append(pair)
    chosen = _shares({name: len(pairs) for name, pairs in by_outcome.items()}, count)
    kept = {_tuple_key(record) for record in run.tuples}
    return {
        "total": {name: len(by_outcome[name]) for name in OUTCOMES if name in by_outcome},
        "attempts": [
            {"outcome": name, **_attempt(response, revision, kept)}
            for name in OUTCOMES
            if name in by_outcome
            for response, revision in evenly_spaced(by_outcome[name], chosen[name])
        ],
    }


def right_revisions(run: RunData) -> int | None:
    """How many revisions were correct, kept or not; None if the run does not say."""
    results = record_of(run.collection, "results")
    if "right_revisions" in results:
        return results["right_revisions"]
    if run.attempts.revisions:  # a collection of version 0.2 or before
        return sum(bool(revision["y_revised_correct"]) for revision in run.attempts.revisions.values())
    return None


def _pairs(attempts: Attempts) -> Iterator[tuple[dict[str, Any], dict[str, Any] | None]]:
    """Every revision with its response, and every response that was not revised."""
    for key, response in attempts.responses.items():
        revisions = list(attempts.revisions_of(key))
        yield from ((response, revision) for revision in revisions or [None])


def _outcome(response: dict[str, Any], revision: dict[str, Any] | None) -> str:
    if revision is None:
        return "not revised"
    words = [
        "right" if correct else "wrong" for correct in (response["y_init_correct"], revision["y_revised_correct"])
    ]
    return " to ".join(words)


def _shares(available: dict[str, int], count: int) -> dict[str, int]:
    """`count` shared out evenly; what one outcome does not have goes to the others."""
    shares: dict[str, int] = {}
    for name in sorted(available, key=lambda name: available[name]):
        left = len(available) - len(shares)
        shares[name] = min(available[name], (count - sum(shares.values())) // left)
    return shares


def _attempt(response: dict[str, Any], revision: dict[str, Any] | None, kept: set[Any]) -> dict[str, Any]:
    record = {
        "id": str(response["id"]),
        "x": shortened(response["x"]),
        "answer": shortened(response["ground_truth"]),
        **_graded(response, "y_init", "y"),
    }
    if revision is not None:
        record |= {"p_r": str(revision["p_r"]), **_graded(revision, "y_revised", "revised")}
        record["kept"] = _tuple_key({**response, **revision}) in kept
    return record


def _tuple_key(record: dict[str, Any]) -> tuple[str, ...]:
    return tuple(str(record.get(name)) for name in ("id", "response_idx", "revision_idx"))


def _graded(sample: dict[str, Any], name: str, key: str) -> dict[str, Any]:
    return {
        key: shortened(sample[name]),
        f"{key}_r": int(bool(sample[f"{name}_correct"])),
        f"{key}_answer": shortened(sample.get(f"{name}_extracted") or ""),
        f"{key}_cut": sample.get(f"{name}_finish_reason") == "length",
    }


# The same problem in every stage ------------------------------------------------------------------------


def shared_problems(stages: Sequence[EvaluatedStage], count: int) -> dict[str, Any]:
    """{"stages": names, "problems": ...} for problems that every stage with attempts answered; each with the first
    response and its revision, and how many of the responses are right."""
    stages = [stage for stage in stages if stage.attempts.responses]
    by_stage = [_by_problem(stage) for stage in stages]
    shared = [key for key in by_stage[0] if all(key in other for other in by_stage)] if by_stage else []
    problems = []
    for key in evenly_spaced(shared, count):
        answers = [_answers(stage, by_problem[key]) for stage, by_problem in zip(stages, by_stage, strict=True)]
        first = by_stage[0][key][0]
        record = {"id": str(first["id"]), "x": shortened(first["x"]), "answer": shortened(first["ground_truth"])}
        problems.append(record | {"stages": answers})
    return {"stages": [stage.name for stage in stages], "total": len(shared), "problems": problems}


def _by_problem(stage: EvaluatedStage) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Responses by id and text of the problem, in the order of the log's problems and then of the responses.

    Those that avg@k counts: not the greedy one, whose index is negative, nor more than k.
    """
    k = stage.metrics.get("k")
    grouped: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for key in sorted(stage.attempts.responses):
        if key[1] < 0 or (is_number(k) and key[1] >= k):
            continue
        response = stage.attempts.responses[key]
        grouped.setdefault((str(response["id"]), str(response["x"])), []).append(response)
    return grouped


def _answers(stage: EvaluatedStage, responses: list[dict[str, Any]]) -> dict[str, Any]:
    first = responses[0]
    record = {
        "right": sum(bool(response["y_init_correct"]) for response in responses),
        "of": len(responses),
        **_graded(first, "y_init", "y"),
    }
    for revision in stage.attempts.revisions_of((first["problem_idx"], first["response_idx"])):
        return record | {"p_r": str(revision["p_r"]), **_graded(revision, "y_revised", "revised")}
    return record


# Responses with the KL of each token --------------------------------------------------------------------


class KLConcentration(NamedTuple):
    """How much of the KL of `responses` is on the tenth of the tokens with the highest KL."""

    responses: int
    kl_per_token: float  # nats
    top_tenth_share: float


def kl_concentration(samples: list[dict[str, Any]], r: int) -> KLConcentration | None:
    """Over all responses with reward r; None if there are none or their KL is zero."""
    responses = [sample["kl"] for sample in samples if sample["r"] == r]
    values = np.sort([max(value, 0.0) for kl in responses for value in kl if value is not None])[::-1]
    if not values.sum():
        return None
    top_tenth = values[: max(1, len(values) // 10)]
    return KLConcentration(len(responses), float(values.mean()), float(top_tenth.sum() / values.sum()))


def kl_samples(samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Logged responses; a long one is cut to the window with the most KL. `phrase`: tokens of a control phrase."""
    phrases = {str(sample["p_r"]) for sample in samples}
    return [_kl_sample(sample, phrases) for sample in evenly_spaced(samples, MAX_SAMPLES)]


def _kl_sample(sample: dict[str, Any], phrases: Iterable[str]) -> dict[str, Any]:
    tokens, kl = [str(token) for token in sample["tokens"]], sample["kl"]
    start = max_kl_window(kl, MAX_TOKENS)
    window = slice(start, start + MAX_TOKENS)
    return {
        "step": sample["step"],
        "id": str(sample["id"]),
        "x": shortened(sample["x"]),
        "r": int(bool(sample["r"])),
        "p_r": str(sample["p_r"]),
        "mean": sum(value or 0.0 for value in kl) / len(kl),
        "before": start,
        "after": max(0, len(tokens) - window.stop),
        "tokens": tokens[window],
        "kl": [None if value is None else round(value, 4) for value in kl[window]],
        "phrase": [index - start for index in phrase_tokens(tokens, phrases) if start <= index < window.stop],
    }


def phrase_tokens(tokens: Sequence[str], phrases: Iterable[str]) -> list[int]:
    """Indices of the tokens that overlap a control phrase in the text of the response.

    A student after stage 1 may write one itself, and the teacher then disagrees with nothing more than with that.
    """
    text, ends = "", []
    for token in tokens:
        text += token
        ends.append(len(text))
    found: set[int] = set()
    for phrase in phrases:
        start = text.find(phrase) if phrase else -1
        while start >= 0:
            stop = start + len(phrase)
            found |= {i for i, end in enumerate(ends) if end > start and end - len(tokens[i]) < stop}
            start = text.find(phrase, stop)
    return sorted(found)


def max_kl_window(kl: Sequence[float | None], length: int) -> int:
    """The start of the window of `length` tokens with the largest sum of KL; of several, the one in the middle."""
    if len(kl) <= length:
        return 0
    sums = np.concatenate([[0.0], np.cumsum([value or 0.0 for value in kl])])
    windows = sums[length:] - sums[:-length]
    largest = np.flatnonzero(windows >= windows.max() - 1e-9)
    return int(largest[len(largest) // 2])
