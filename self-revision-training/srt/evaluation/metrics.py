"""The metrics of a model, each with an interval over problems, and the differences between two models."""

from collections.abc import Callable
from typing import Any

import numpy as np

from srt.contract.metrics import (
    ACCURACY_AFTER,
    AVG_AT_K,
    BETTER_OF_BOTH,
    ENTROPY,
    GAIN_PER_1000_TOKENS,
    GREEDY_ACCURACY,
    MAJORITY_AT,
    MEAN_RESPONSE_TOKENS,
    PASS_AT,
    RESPONSE_TOKENS_PERCENTILES,
    REVISE,
    REVISED,
    REVISIONS,
    REVISIONS_TRUNCATED,
    TOKENS_AFTER,
    TRUNCATED,
    at,
    by_reward,
)
from srt.evaluation.estimators import majority_at_k, pass_at_k
from srt.evaluation.intervals import Gain, Metric, Percentile, Ratio, bootstrap_weights, interval, point
from srt.evaluation.samples import EvaluatedSample, ProblemSamples

Json = dict[str, Any]
GOLD = object()  # the vote of every correct response: they are all equal to the gold answer


def metrics_of(problems: list[ProblemSamples], k: int, mode: str, seed: int) -> dict[str, Metric]:
    """All metrics of a model, in the order of the tables. `k`: responses asked for per problem."""
    metrics: dict[str, Metric] = {AVG_AT_K: _mean(problems, _accuracy)}
    for j in range(1, k + 1):
        metrics[at(PASS_AT, j)] = _mean(problems, lambda p, j=j: pass_at_k(*_counts(p), j))
    if mode == "math":  # programs have no answer to vote on
        votes = [_majorities(problem, k, seed) for problem in problems]
        for j in range(1, k + 1):
            metrics[at(MAJORITY_AT, j)] = Ratio(np.array([v[j - 1] for v in votes]), np.ones(len(votes)))
    greedy = [problem.greedy for problem in problems]
    metrics[GREEDY_ACCURACY] = _share_of([[g] if g else [] for g in greedy], lambda g: g.correct)
    responses = [problem.responses for problem in problems]
    known = [[r for r in of_problem if r.logprob is not None] for of_problem in responses]  # see LOGPROBS
    if any(known):
        # The mean negative log-prob of the sampled tokens; see ENTROPY_NOTE.
        metrics[ENTROPY] = Ratio(
            np.array([-sum(r.logprob or 0.0 for r in of_problem) for of_problem in known]),
            np.array([sum(r.tokens for r in of_problem) for of_problem in known]),
        )
    metrics[MEAN_RESPONSE_TOKENS] = _share_of(responses, lambda r: r.tokens)
    tokens = np.array([r.tokens for of_problem in responses for r in of_problem])
    problem_of = np.array([index for index, of_problem in enumerate(responses) for _ in of_problem])
    for name, share in RESPONSE_TOKENS_PERCENTILES.items():
        metrics[name] = Percentile(tokens, problem_of, share)
    metrics[TRUNCATED] = _share_of(responses, lambda r: r.truncated)
    for r in (0, 1):
        revised = [_revisions(problem, r) for problem in problems]
        metrics[by_reward(REVISE, r)] = _share_of(revised, lambda y: y.correct)
        metrics[by_reward(REVISIONS_TRUNCATED, r)] = _share_of(revised, lambda y: y.truncated)
    if any(problem.revisions for problem in problems):
        metrics |= _outcome_of_revising(problems, _mean(problems, _accuracy))
    return metrics


def _outcome_of_revising(problems: list[ProblemSamples], before: Ratio) -> dict[str, Metric]:
    """Each revision in the place of its response. `before`: the accuracy of the responses."""
    pairs = [[(r, p.revisions.get(r.key.response)) for r in p.responses] for p in problems]
    counts = np.array([len(of_problem) for of_problem in pairs])

    def mean_of_problems(right: Callable[[EvaluatedSample, EvaluatedSample | None], bool]) -> Ratio:
        means = [np.mean([right(response, revision) for response, revision in of_problem]) for of_problem in pairs]
        return Ratio(np.array(means), np.ones(len(means)))

    def sums(value: Callable[[EvaluatedSample, EvaluatedSample | None], float]) -> np.ndarray:
        return np.array([sum(value(*pair) for pair in of_problem) for of_problem in pairs], dtype=float)

    after = mean_of_problems(lambda y, revised: (revised or y).correct)
    tokens = Ratio(sums(lambda y, revised: y.tokens), counts)
    tokens_after = Ratio(sums(lambda y, revised: y.tokens + (revised.tokens if revised else 0)), counts)
    return {
        REVISED: Ratio(sums(lambda y, revised: revised is not None), counts),
        ACCURACY_AFTER: after,
        BETTER_OF_BOTH: mean_of_problems(lambda y, revised: y.correct or bool(revised and revised.correct)),
        TOKENS_AFTER: tokens_after,
        GAIN_PER_1000_TOKENS: Gain(after, before, _by_1000(tokens_after), _by_1000(tokens)),
    }


def _by_1000(tokens: Ratio) -> Ratio:
    return Ratio(tokens.numerators, 1000 * tokens.denominators)


def entropy_note(temperature: float, top_p: float) -> str:
    """How ENTROPY was estimated, and of what."""
    estimate = "mean negative log-prob of the sampled tokens under the model at temperature 1, in nats per token"
    if temperature == 1 and top_p == 1:
        return f"{estimate}: an unbiased estimate of the entropy"
    return (
        f"{estimate}: sampled at temperature {temperature:g} and top_p {top_p:g}, so it is not the entropy itself"
    )


def evaluation_metrics(problems: list[ProblemSamples], k: int, mode: str, seed: int) -> Json:
    """What evaluation.json says of a model: accuracies in [0, 1], lengths in tokens.

    `metrics` has every metric as {"value", "interval"}, None where nothing was sampled; `by_source` has the same
    for the problems of each source, if there are several. The names beside them are those up to version 0.2.
    """
    measured = measure(problems, k, mode, seed)
    sources = dict.fromkeys(problem.source for problem in problems)
    by_source = {}
    if len(sources) > 1:
        for source in sources:
            chosen = [problem for problem in problems if problem.source == source]
            by_source[source] = {"problems": len(chosen), "metrics": measure(chosen, k, mode, seed)}
    values = {name: entry["value"] for name, entry in measured.items()}
    revised = [sum(len(_revisions(problem, r)) for problem in problems) for r in (0, 1)]
    return {
        "problems": len(problems),
        "k": k,
        AVG_AT_K: values[AVG_AT_K],
        "avg_at_k_interval": measured[AVG_AT_K]["interval"],
        "pass_at_k": values[at(PASS_AT, k)],
        MEAN_RESPONSE_TOKENS: values[MEAN_RESPONSE_TOKENS],
        TRUNCATED: values[TRUNCATED],
        **{by_reward(REVISE, r): values[by_reward(REVISE, r)] for r in (0, 1)},
        **{by_reward(REVISIONS, r): revised[r] for r in (0, 1)},
        **{by_reward(REVISIONS_TRUNCATED, r): values[by_reward(REVISIONS_TRUNCATED, r)] for r in (0, 1)},
        "metrics": measured,
        "by_source": by_source,
    }


def measure(problems: list[ProblemSamples], k: int, mode: str, seed: int) -> Json:
    """Metric -> {"value", "interval"} over these problems."""
    weights = bootstrap_weights(len(problems), seed)
    return {
        name: {"value": point(metric, len(problems)), "interval": interval(metric.of(weights))}
        for name, metric in metrics_of(problems, k, mode, seed).items()
    }


def differences(
    model: list[ProblemSamples], reference: list[ProblemSamples], k: int, mode: str, seed: int
) -> Json:
    """The metrics of `model` minus those of `reference`, in pairs: over the problems that both have.

    {"problems", "metrics": metric -> {"difference", "interval"}, "by_source"}. Raises ValueError for none.
    """
    shared = {problem.index for problem in model} & {problem.index for problem in reference}
    if not shared:
        raise ValueError("the models have no problem in common")
    ours, theirs = ([problem for problem in side if problem.index in shared] for side in (model, reference))
    result = {"problems": len(shared), "metrics": _paired(ours, theirs, k, mode, seed), "by_source": {}}
    sources = dict.fromkeys(problem.source for problem in ours)
    for source in sources if len(sources) > 1 else ():
        chosen, others = ([problem for problem in side if problem.source == source] for side in (ours, theirs))
        result["by_source"][source] = {
            "problems": len(chosen),
            "metrics": _paired(chosen, others, k, mode, seed),
        }
    return result


def _paired(model: list[ProblemSamples], reference: list[ProblemSamples], k: int, mode: str, seed: int) -> Json:
    weights = bootstrap_weights(len(model), seed)
    ones = np.ones((1, len(model)))
    ours, theirs = metrics_of(model, k, mode, seed), metrics_of(reference, k, mode, seed)
    result = {}
    for name in ours.keys() & theirs.keys():
        difference = float((ours[name].of(ones) - theirs[name].of(ones))[0])
        result[name] = {
            "difference": None if np.isnan(difference) else difference,
            "interval": interval(ours[name].of(weights) - theirs[name].of(weights)),
        }
    return {name: result[name] for name in ours if name in result}


def _mean(problems: list[ProblemSamples], of_problem: Callable[..., float]) -> Ratio:
    """The mean over problems of a value of each."""
    return Ratio(np.array([of_problem(problem) for problem in problems]), np.ones(len(problems)))


def _share_of(samples: list[list[EvaluatedSample]], value: Callable[[EvaluatedSample], float]) -> Ratio:
    """The mean over samples, given as a list for each problem."""
    sums = np.array([sum(value(sample) for sample in of_problem) for of_problem in samples], dtype=float)
    return Ratio(sums, np.array([len(of_problem) for of_problem in samples]))


def _accuracy(problem: ProblemSamples) -> float:
    return float(np.mean([response.correct for response in problem.responses]))


def _counts(problem: ProblemSamples) -> tuple[int, int]:
    return len(problem.responses), sum(response.correct for response in problem.responses)


def _majorities(problem: ProblemSamples, k: int, seed: int) -> np.ndarray:
    """majority@1 to majority@k; with fewer responses, the last value stands for the others."""
    responses = problem.responses
    votes = [GOLD if r.correct else normalized_answer(r.answer) or None for r in responses]
    estimates = majority_at_k(votes, [r.correct for r in responses], [seed, problem.index])
    return np.pad(estimates, (0, max(0, k - len(estimates))), mode="edge")


def normalized_answer(answer: str) -> str:
    """The text by which wrong answers are the same vote: without white space, math delimiters and final period."""
    return "".join(answer.split()).rstrip(".").strip("$").casefold()


def _revisions(problem: ProblemSamples, r: int) -> list[EvaluatedSample]:
    """The revisions of the responses with reward r."""
    reward = {response.key.response: int(response.correct) for response in problem.responses}
    return [revision for index, revision in problem.revisions.items() if reward.get(index) == r]
