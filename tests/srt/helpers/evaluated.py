"""Samples whose verdicts are known, as evaluation reads them from its log."""

from srt.contract.records import Problem, SampleKey
from srt.evaluation.metrics import evaluation_metrics
from srt.evaluation.samples import EvaluatedSample, ProblemSamples, group_by_problem


def new_response(problem, index, right, tokens=3, truncated=False, answer=None, logprob=None):
    answer = answer if answer is not None else "7" if right else "8"
    return EvaluatedSample(SampleKey(problem, index), bool(right), tokens, truncated, answer, logprob)


def new_revision(problem, index, right, truncated=False, tokens=2):
    return EvaluatedSample(SampleKey(problem, index, 0), bool(right), tokens, truncated, "7" if right else "8")


def responses_of(rewards) -> list[EvaluatedSample]:
    """One response for each reward; `rewards`: a list for each problem."""
    return [new_response(p, i, right) for p, row in enumerate(rewards) for i, right in enumerate(row)]


def grouped(samples, sources=None) -> list[ProblemSamples]:
    """`sources`: of the problems; by default they have none."""
    count = 1 + max(sample.key.problem for sample in samples)
    problems = [Problem(f"p{n}", f"x = {n}", "7", source=(sources or [""] * count)[n]) for n in range(count)]
    return group_by_problem(samples, problems)


def metrics_of_samples(samples, k, seed=0, sources=None, mode="math") -> dict:
    return evaluation_metrics(grouped(samples, sources), k, mode, seed)
