"""Problems from a Hugging Face dataset or a local file: reading.py yields records, parsing.py parses them."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from srt.common.errors import UserError
from srt.common.files import write_jsonl
from srt.contract.provenance import fingerprint
from srt.contract.records import Problem, SampleKey
from srt.problems.named import named_sets, read_named
from srt.problems.parsing import USED_FIELDS, has_enough_tests, has_only_examples, parse_problem
from srt.problems.reading import read_records
from srt.verifiers.math.golds import GoldChecker

__all__ = ["ProblemSet", "load_problems", "set_aside_bad_records"]

# What one record may cause that is not as its field names promise; no record may spoil the set.
UNREADABLE = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)
SHOWN_CHARACTERS = 1000  # of a record that is no JSON


@dataclass(frozen=True)
class ProblemSet:
    """`bad`: the records that could not be used, each with its place and the reason.

    `repeated`: number of records that repeat an earlier problem; datasets of solutions have one record per
    solution. `revision`: the commit of a hub dataset, if it is known. `too_few_tests`: number of problems left out
    for MIN_TESTS. `examples_only`: the ids of the `problems` whose only tests are the examples in their text; a
    program that prints their outputs passes.
    """

    problems: list[Problem]
    bad: list[dict[str, Any]]
    fingerprint: str
    repeated: int = 0
    revision: str | None = None
    too_few_tests: int = 0
    examples_only: frozenset[str] = frozenset()

    def num_examples_only(self, keys: Iterable[SampleKey]) -> int:
        """How many of these samples belong to problems whose only tests are the examples in their text."""
        return sum(self.problems[key.problem].id in self.examples_only for key in keys)


def load_problems(
    dataset: str, mode: str = "math", subset: str | None = None, split: str = "train", min_tests: int = 0
) -> ProblemSet:
    """All problems of `dataset`, in its order. Bad records are set aside, not dropped silently.

    `dataset`: a local file, a hub id, or named sets (named.py), which have their own `subset` and `split`; in a
    named set a text that occurs again is not another problem. `min_tests`: leave out code problems with fewer
    input/output tests.

    Raises UserError when the dataset is missing, empty or broken, when most of its records are bad, or when
    `min_tests` leaves out all problems.
    """
    problems: list[Problem] = []
    bad: list[dict[str, Any]] = []
    seen: dict[str, tuple[Problem, str]] = {}
    repeated = 0
    examples_only: set[str] = set()
    golds = GoldChecker()
    named = named_sets(dataset, mode)
    source = read_named(named) if named else read_records(dataset, subset, split, USED_FIELDS)
    by_text: dict[tuple[str, str], Problem] = {}
    for place, record in source.records:
        if isinstance(record, str):  # the reason why the line could not be read
            bad.append({"place": place, "reason": record})
            continue
        try:
            problem = parse_problem(record, mode)
            if mode == "math":
                golds.check(problem.answer)
        except UNREADABLE as error:
            bad.append({"place": place, "reason": _reason(error), "record": _serializable(record)})
            continue
        if named:
            first = by_text.setdefault((problem.source, " ".join(problem.x.split())), problem)
            if first is not problem:
                if first.answer == problem.answer:
                    repeated += 1
                else:
                    bad.append({"place": place, "reason": f"the text of {first.id!r} with another answer"})
                continue
        if problem.id in seen:
            first, first_place = seen[problem.id]
            if problem == first:
                repeated += 1
            else:
                bad.append({"place": place, "reason": f"the id {problem.id!r} was seen before ({first_place})"})
            continue
        seen[problem.id] = (problem, place)
        problems.append(problem)
        if mode == "code" and has_only_examples(record):
            examples_only.add(problem.id)
    if not problems and not bad:
        raise UserError(f"{dataset}: contains no records")
    if len(bad) > len(problems):
        first = bad[0]
        raise UserError(
            f"{dataset}: {len(bad)} of {len(bad) + len(problems)} records cannot be used; the first is "
            f"{first['place']}: {first['reason']}"
        )
    enough = [p for p in problems if mode != "code" or has_enough_tests(p, min_tests)]
    if problems and not enough:
        raise UserError(f"{dataset}: MIN_TESTS={min_tests} leaves out all {len(problems)} problems")
    too_few_tests, problems = len(problems) - len(enough), enough
    examples_only &= {p.id for p in problems}
    if too_few_tests:
        print(f"{dataset}: MIN_TESTS={min_tests} leaves out {too_few_tests} problems")
    if examples_only:
        print(
            f"{dataset}: {len(examples_only)} of {len(problems)} problems have no tests but the examples in "
            "their text (MIN_TESTS leaves out problems with few tests)"
        )
    return ProblemSet(
        problems,
        bad,
        _fingerprint(problems, mode),
        repeated,
        source.revision,
        too_few_tests,
        frozenset(examples_only),
    )


def set_aside_bad_records(loaded: ProblemSet, output_dir: Path) -> None:
    """Write the records that could not be used, if any, to bad_records.jsonl, and print where they are."""
    if not loaded.bad:
        return
    path = output_dir / "bad_records.jsonl"
    write_jsonl(path, loaded.bad)
    print(f"{len(loaded.bad)} unreadable records are set aside in {path}, each with its reason")


def _reason(error: Exception) -> str:
    return str(error) if type(error) is ValueError else f"cannot be read ({type(error).__name__}: {error})"


def _serializable(record: dict[str, Any]) -> Any:
    """The record as JSON; parquet also holds dates and bytes."""
    try:
        return json.loads(json.dumps(record, default=str))
    except (ValueError, TypeError, RecursionError):
        return repr(record)[:SHOWN_CHARACTERS]


def _fingerprint(problems: list[Problem], mode: str) -> str:
    tests = [
        json.dumps([p.tests, p.limits, p.checker, p.input_file, p.output_file])
        for p in (problems if mode == "code" else [])
    ]
    return fingerprint(mode, *(f"{p.id}\t{p.x}\t{p.answer}" for p in problems), *tests)
