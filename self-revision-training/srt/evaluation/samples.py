"""What the metrics need of each graded sample, by problem."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from srt.collect.collector import GREEDY
from srt.contract.records import Problem, Response, Revision, SampleKey


class EvaluatedSample(NamedTuple):
    """A graded response or revision. `answer`: as extracted, "" if there is none.

    `logprob`: of all its tokens under the model at temperature 1, in nats; None if it was not recorded.
    """

    key: SampleKey
    correct: bool
    tokens: int
    truncated: bool
    answer: str = ""
    logprob: float | None = None

    @classmethod
    def of(cls, record: Response | Revision) -> "EvaluatedSample":
        if isinstance(record, Response):
            return cls(
                record.key,
                record.y_init_correct,
                record.y_init_tokens,
                record.y_init_finish_reason == "length",
                record.y_init_extracted,
                record.y_init_logprob,
            )
        return cls(
            record.key,
            record.y_revised_correct,
            record.y_revised_tokens,
            record.y_revised_finish_reason == "length",
            record.y_revised_extracted,
            record.y_revised_logprob,
        )


@dataclass(frozen=True)
class ProblemSamples:
    """The samples of one problem. `revisions`: by the index of the response that they revise.

    `greedy`: the response at temperature 0; None if there is none, or if it was set aside.
    """

    index: int
    source: str
    responses: list[EvaluatedSample] = field(default_factory=list)
    revisions: dict[int, EvaluatedSample] = field(default_factory=dict)
    greedy: EvaluatedSample | None = None


def group_by_problem(samples: Iterable[EvaluatedSample], problems: list[Problem]) -> list[ProblemSamples]:
    """The samples of each problem that has a graded response, in the order of problems and responses."""
    grouped = [ProblemSamples(index, problem.source) for index, problem in enumerate(problems)]
    for sample in sorted(samples, key=lambda sample: sample.key.response_key):
        problem, response, revision = sample.key
        if response == GREEDY:
            grouped[problem] = _with_greedy(grouped[problem], sample)
        elif revision is None:
            grouped[problem].responses.append(sample)
        else:
            grouped[problem].revisions[response] = sample
    return [problem for problem in grouped if problem.responses]


def _with_greedy(problem: ProblemSamples, greedy: EvaluatedSample) -> ProblemSamples:
    return ProblemSamples(problem.index, problem.source, problem.responses, problem.revisions, greedy)
