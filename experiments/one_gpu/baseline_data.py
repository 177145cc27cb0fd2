"""Training data of the rivals, chosen among the samples that the collection drew.

    python -m experiments.one_gpu.baseline_data kind=rejection data=.../attempts.jsonl output=DIR responses=2000

`rejection`: right responses (rejection fine-tuning, RFT). `majority`: responses whose answer is the one that most
responses to the problem gave, right or not: what a model can teach itself without a reward. Both take one response
a problem in the order of problems, then a second one, and so on, until there are `responses` of them.
"""

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from experiments.one_gpu.plan import BASELINE_FILE
from srt.common.entry_point import run_entry_point
from srt.common.errors import UserError
from srt.common.files import read_jsonl, write_jsonl
from srt.common.name_values import read_name_values
from srt.contract.records import Response, from_line
from srt.evaluation.metrics import normalized_answer

Chooser = Callable[[list[Response]], list[Response]]


@dataclass(frozen=True)
class Settings:
    """`data`: the samples of the collection; `output`: the folder for the chosen responses."""

    kind: str
    data: Path
    output: Path
    responses: int


def right(responses: list[Response]) -> list[Response]:
    """The right responses to one problem."""
    return [response for response in responses if response.y_init_correct]


def of_majority(responses: list[Response]) -> list[Response]:
    """The responses to one problem with the most frequent answer; the first of equally frequent ones counts.

    Answers are compared as the evaluation compares wrong ones, as text. Truncated responses and those without an
    answer have no vote.
    """
    answers = [normalized_answer(response.y_init_extracted) for response in responses]
    votes = Counter(filter(None, answers))
    if not votes:
        return []
    winner = votes.most_common(1)[0][0]
    return [response for response, answer in zip(responses, answers, strict=True) if answer == winner]


CHOOSERS: dict[str, Chooser] = {"rejection": right, "majority": of_majority}


def choose(attempts: Path, chooser: Chooser, count: int) -> list[Response]:
    """At most `count` responses, spread over as many problems as possible."""
    by_problem: dict[int, list[Response]] = defaultdict(list)
    for line in read_jsonl(attempts):
        record = from_line(line)
        if isinstance(record, Response):
            by_problem[record.problem_idx].append(record)
    chosen = [
        chooser(sorted(responses, key=lambda response: response.response_idx))
        for _, responses in sorted(by_problem.items())
    ]
    return list(itertools.islice(_by_rounds(chosen), count))


def _by_rounds(chosen: list[list[Response]]) -> Iterator[Response]:
    """The first response of each problem, then the second of each, and so on."""
    for round_ in itertools.zip_longest(*chosen):
        yield from (response for response in round_ if response is not None)


def main(arguments: list[str]) -> None:
    settings: Settings = read_name_values(Settings, arguments, __doc__)
    if settings.kind not in CHOOSERS:
        raise UserError(f"kind={settings.kind}: expected one of {', '.join(CHOOSERS)}")
    responses = choose(settings.data, CHOOSERS[settings.kind], settings.responses)
    lines = [
        {"id": response.id, "x": response.x, "y": response.y_init, "y_ids": response.y_init_ids}
        for response in responses
    ]
    write_jsonl(settings.output / BASELINE_FILE, lines)
    share = sum(response.y_init_correct for response in responses) / max(len(responses), 1)
    print(f"{len(lines)} responses of {settings.responses}, {share:.1%} of them right")


if __name__ == "__main__":
    run_entry_point(main)
