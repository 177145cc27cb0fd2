"""Problems from a Hugging Face dataset id or a local .json / .jsonl / .parquet file."""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from srt.common.errors import UserError
from srt.common.files import write_jsonl
from srt.contract.provenance import fingerprint
from srt.contract.records import Problem
from srt.verifiers.code.limits import MAX_CPU_SECONDS, MAX_MEMORY_MB, MAX_NAME_BYTES
from srt.verifiers.math.extract import extract_gold

QUESTION_FIELDS = ("problem", "question", "prompt")
DESCRIPTION = "description"  # of a code problem that has no prompt
ANSWER_FIELDS = ("answer", "solution")
EXAMPLES = "examples"  # the tests that the problem shows; the others are hidden
TEST_FIELDS = (EXAMPLES, "official_tests", "test_cases")  # each a list of {"input": ..., "output": ...}
STATEMENT_PARTS = ("input_format", "output_format", "interaction_format", "note")  # beside a description
# Larger limits are lowered to these (limits.py says why).
MAX_LIMITS = {"time_seconds": MAX_CPU_SECONDS, "memory_mb": MAX_MEMORY_MB}
LIMITS = {"time_limit": "time_seconds", "memory_limit": "memory_mb"}  # as in codeforces-cots -> in Problem.limits
FUNCTION_FIELDS = ("test", "entry_point")  # as in HumanEval: tests that call a function of the program
CHECKER = "generated_checker"  # as in open-r1/codeforces: a program that decides, where many outputs are right
INTERACTION = "interaction_format"  # of a problem whose program talks with the judge
# open-r1/codeforces: input_mode "file" means these names; the two other fields give names of one's own.
INPUT_MODE, FILES = "input_mode", {"input_file": "input.txt", "output_file": "output.txt"}
ID_FIELDS = ("id", "uuid", "task_id")
OTHER_FIELDS = (*ID_FIELDS, "source", "question_type")
USED_FIELDS = (
    *QUESTION_FIELDS,
    DESCRIPTION,
    *ANSWER_FIELDS,
    *TEST_FIELDS,
    *STATEMENT_PARTS,
    *LIMITS,
    *FUNCTION_FIELDS,
    CHECKER,
    INPUT_MODE,
    *FILES,
    *OTHER_FIELDS,
)
NO_ANSWERS = ("proof", "notfound")  # what NuminaMath 1.5, and OpenR1-Math made from it, put in place of an answer
LOCAL_SUFFIXES = (".json", ".jsonl", ".parquet")


@dataclass(frozen=True)
class ProblemSet:
    """`bad`: the records that could not be read, each with its place and the reason.

    `repeated`: records left out because their problem is there already: data sets of solutions have a record
    for each solution. `too_few_tests`: problems left out for MIN_TESTS. `examples_only`: the ids of those in
    `problems` whose only tests are the examples in their text: a program that prints their outputs passes.
    """

    problems: list[Problem]
    bad: list[dict]
    fingerprint: str
    repeated: int = 0
    too_few_tests: int = 0
    examples_only: frozenset[str] = frozenset()


def load_problems(
    dataset: str, mode: str = "math", subset: str | None = None, split: str = "train", min_tests: int = 0
) -> ProblemSet:
    """All problems of `dataset`, in its order. Bad records are set aside, not dropped silently.

    `min_tests`: leave out code problems with fewer tests of input and output.

    Raises UserError when the data set is missing, empty, broken, or mostly bad.
    """
    problems: list[Problem] = []
    bad: list[dict] = []
    seen: dict[str, tuple[Problem, str]] = {}
    repeated = 0
    examples_only: set[str] = set()
    for place, record in _records(dataset, subset, split):
        if isinstance(record, str):  # the reason why the line could not be read
            bad.append({"place": place, "reason": record})
            continue
        try:
            problem = _problem(record, mode)
        except ValueError as error:
            writable = json.loads(json.dumps(record, default=str))  # parquet also holds dates and bytes
            bad.append({"place": place, "reason": str(error), "record": writable})
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
        if mode == "code" and _has_only_examples(record):
            examples_only.add(problem.id)
    if not problems and not bad:
        raise UserError(f"{dataset}: it holds no records")
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
    tests = [_judged_by(p) for p in problems] if mode == "code" else []
    digest = fingerprint(mode, *(f"{p.id}\t{p.x}\t{p.answer}" for p in problems), *tests)
    return ProblemSet(problems, bad, digest, repeated, too_few_tests, frozenset(examples_only))


def set_aside_bad_records(loaded: ProblemSet, output_dir: Path) -> None:
    """Write the records that could not be read to bad_records.jsonl, and say so; nothing when there is none."""
    if not loaded.bad:
        return
    path = output_dir / "bad_records.jsonl"
    write_jsonl(path, loaded.bad)
    print(f"{len(loaded.bad)} unreadable records are set aside in {path}, each with its reason")


def _records(dataset: str, subset: str | None, split: str) -> Iterator[tuple[str, dict | str]]:
    """(place, record) pairs; the record is a reason (str) where a line is no JSON object."""
    path = Path(dataset)
    if path.suffix not in LOCAL_SUFFIXES:
        yield from _hub_records(dataset, subset, split)
        return
    if not path.is_file():
        raise UserError(f"{dataset}: there is no such data file")
    if path.suffix == ".parquet":
        import pyarrow.parquet

        try:
            table = pyarrow.parquet.read_table(path)
        except (pyarrow.ArrowException, OSError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{dataset}: not readable as parquet ({reason})") from error
        for index, record in enumerate(table.to_pylist()):
            yield f"{dataset}, row {index + 1}", record
        return
    text = path.read_text(encoding="utf-8-sig", errors="replace")  # Windows likes to begin with a mark
    if path.suffix == ".jsonl":
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip():
                try:
                    record = _as_object(json.loads(line))
                except json.JSONDecodeError as error:
                    record = f"not JSON ({error.msg})"
                yield f"{dataset}, line {number}", record
        return
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{dataset}, line {error.lineno}: not JSON ({error.msg})") from None
    if not isinstance(content, list):
        raise UserError(f"{dataset}: a list of records is expected, found {type(content).__name__}")
    for index, record in enumerate(content):
        yield f"{dataset}, record {index + 1}", _as_object(record)


def _as_object(record: object) -> dict | str:
    if isinstance(record, dict):
        return record
    return f"a JSON object is expected, found {type(record).__name__}"


def _hub_records(dataset: str, subset: str | None, split: str) -> Iterator[tuple[str, dict]]:
    import datasets

    try:
        loaded = datasets.load_dataset(dataset, subset, split=split)
    except Exception as error:  # the hub's client raises many kinds; all mean the same to the user
        raise UserError(
            f"DATASET={dataset}: neither a local file ({', '.join(LOCAL_SUFFIXES)}) nor a data set that "
            f"could be loaded from the Hugging Face hub ({type(error).__name__}: {str(error).splitlines()[0]})"
        ) from error
    # The solutions and model outputs beside the problems may be gigabytes.
    used = [name for name in loaded.column_names if name in USED_FIELDS]
    for index, record in enumerate(loaded.select_columns(used) if used else loaded):
        yield f"{dataset}, {split} row {index + 1}", record


def _problem(record: dict, mode: str) -> Problem:
    """Raises ValueError with the reason when the record cannot be used."""
    names = (*QUESTION_FIELDS, DESCRIPTION) if mode == "code" else QUESTION_FIELDS
    x = _first_text(record, names)
    if x is None:
        raise ValueError(f"no problem text: one of {', '.join(names)} is expected, found {', '.join(record)}")
    answer, code = "", {}
    if mode == "code":
        code = _code_fields(record)
        if _first_text(record, QUESTION_FIELDS) is None:
            x = _statement(record, x)
    else:
        found = _first_text(record, ANSWER_FIELDS)
        if found is None:
            raise ValueError(f"no answer: one of {', '.join(ANSWER_FIELDS)} is expected and not empty")
        answer = extract_gold(found)
        if not answer:
            raise ValueError("the answer is empty")
        if answer.lower() in NO_ANSWERS or record.get("question_type") == "proof":
            raise ValueError(f"a problem without an answer that could be verified (answer: {answer[:80]!r})")
    own_id = next((record[name] for name in ID_FIELDS if name in record), None)
    return Problem(
        id=str(own_id) if own_id not in (None, "") else fingerprint(x),
        x=x,
        answer=answer,
        mode=mode,
        source=str(record.get("source") or ""),
        **code,
    )


def _statement(record: dict, description: str) -> str:
    """The text of a code problem that has no prompt: its description with what belongs to it."""
    parts = {name: _first_text(record, (name,)) for name in STATEMENT_PARTS}
    examples = [f"Input\n{test['input']}\nOutput\n{test['output']}" for test in record.get("examples") or []]
    titled = [f"{name.replace('_', ' ').capitalize()}\n{text}" for name, text in parts.items() if text]
    return "\n\n".join([description, *titled, *(f"Example\n{example}" for example in examples)])


def _code_fields(record: dict) -> dict[str, Any]:
    """What a program is judged by. Raises ValueError when that is not there or cannot be used."""
    if _first_text(record, (INTERACTION,)):
        raise ValueError("an interactive problem: its program would have to talk with the judge")
    tests = _tests(record)
    if not tests:
        fields = f"{', '.join(TEST_FIELDS)}, or {' and '.join(FUNCTION_FIELDS)}"
        raise ValueError(f"no tests: one of {fields} is expected")
    limits = {}
    for field, name in LIMITS.items():
        if record.get(field) is not None:
            if not isinstance(record[field], (int, float)) or not 0 < record[field] < math.inf:
                raise ValueError(f"{field}: a number above 0 is expected, found {record[field]!r:.80}")
            limits[name] = min(record[field], MAX_LIMITS[name])
    files = {name: _first_text(record, (name,)) or "" for name in FILES}
    if record.get(INPUT_MODE) == "file":
        files = {name: files[name] or default for name, default in FILES.items()}
    for name, file in files.items():
        valid = re.fullmatch(r"[\w.-]*", file) and len(file.encode()) <= MAX_NAME_BYTES
        if not valid or file.startswith((".", "-")):
            raise ValueError(f"{name}: a plain file name is expected, found {file!r:.80}")
    return {"tests": tests, "limits": limits, "checker": _first_text(record, (CHECKER,)) or "", **files}


def _tests(record: dict) -> list[dict]:
    """Each once: examples are often among the official tests. Raises ValueError for one without an output."""
    test, entry_point = (record.get(name) for name in FUNCTION_FIELDS)
    if isinstance(test, str) and isinstance(entry_point, str):
        return [{"test": test, "entry_point": entry_point}]
    given = [test for name in TEST_FIELDS for test in _test_list(record.get(name))]
    for test in given:
        if not isinstance(test, dict) or not all(isinstance(test.get(part), str) for part in ("input", "output")):
            raise ValueError(f"a test needs an input and an output, found {test!r:.80}")
    pairs = dict.fromkeys((test["input"], test["output"]) for test in given)
    return [{"input": given, "output": output} for given, output in pairs]


def has_enough_tests(problem: Problem, min_tests: int) -> bool:
    """Tests that call a function are one record, however many they are; they always count as enough."""
    return len(problem.tests) >= min_tests or "entry_point" in problem.tests[0]


def _has_only_examples(record: dict) -> bool:
    return bool(_test_list(record.get(EXAMPLES))) and not any(
        _test_list(record.get(name)) for name in TEST_FIELDS if name != EXAMPLES
    )


def _test_list(tests: Any) -> list:
    """A list of tests; `datasets` may hand it over turned round, as {"input": [...], "output": [...]}."""
    if isinstance(tests, dict) and all(isinstance(tests.get(part), list) for part in ("input", "output")):
        pairs = zip(tests["input"], tests["output"], strict=True)
        return [{"input": given, "output": output} for given, output in pairs]
    return tests if isinstance(tests, list) else []


def _judged_by(problem: Problem) -> str:
    return json.dumps([problem.tests, problem.limits, problem.checker, problem.input_file, problem.output_file])


def _first_text(record: dict, names: tuple[str, ...]) -> str | None:
    for name in names:
        value = record.get(name)
        # A number that is missing in a table is NaN.
        if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
            value = str(value)
        if isinstance(value, str) and value.strip():
            return value.strip()
    return None
