"""Turns a record into a problem: the accepted field names, and what makes a record unusable."""

import json
import math
import re
from dataclasses import asdict
from typing import Any

from srt.contract.provenance import fingerprint
from srt.contract.records import Problem
from srt.verifiers.code.function_tests import why_tests_cannot_judge
from srt.verifiers.code.sandbox.limits import MAX_NAME_BYTES
from srt.verifiers.math.extract import extract_gold

QUESTION_FIELDS = ("problem", "question", "prompt")
DESCRIPTION = "description"  # the statement of a code problem without a prompt
ANSWER_FIELDS = ("answer", "solution")
EXAMPLES = "examples"  # the tests that the problem's text shows
TEST_FIELDS = (EXAMPLES, "official_tests", "test_cases")  # each a list of {"input": ..., "output": ...}
STATEMENT_PARTS = ("input_format", "output_format", "interaction_format", "note")  # appended to a description
LIMITS = {"time_limit": "time_seconds", "memory_limit": "memory_mb"}  # codeforces-cots -> Problem.limits
FUNCTION_FIELDS = ("test", "entry_point")  # as in HumanEval: the test calls a function of the program
CHECKER = "generated_checker"  # as in open-r1/codeforces: a program that judges the output
INTERACTION = "interaction_format"  # marks a problem whose program interacts with the judge
# open-r1/codeforces: input_mode "file" means these names, unless the fields of FILES give others.
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


def parse_problem(record: dict[str, Any], mode: str) -> Problem:
    """The problem in a record. Raises ValueError, with the reason, when the record cannot be used."""
    names = (*QUESTION_FIELDS, DESCRIPTION) if mode == "code" else QUESTION_FIELDS
    x = _first_text(record, names)
    if x is None:
        found = _of_other_type(record, names) or ", ".join(record)
        raise ValueError(f"no problem text: expected one of {', '.join(names)}, found {found}")
    answer, code = "", {}
    if mode == "code":
        code = _code_fields(record)
        if _first_text(record, QUESTION_FIELDS) is None:
            x = _statement(record, x)
    else:
        solution = _first_text(record, ANSWER_FIELDS)
        if solution is None:
            found = _of_other_type(record, ANSWER_FIELDS)
            raise ValueError(
                f"no answer: expected a non-empty value in one of {', '.join(ANSWER_FIELDS)}"
                + (f", found {found}" if found else "")
            )
        answer = extract_gold(solution)
        if not answer:
            raise ValueError("the answer is empty")
        if record.get("question_type") == "proof":
            raise ValueError(f"a proof: no answer that could be verified (answer: {answer[:80]!r})")
    own_id = next((record[name] for name in ID_FIELDS if name in record), None)
    source = record.get("source")
    problem = Problem(
        id=fingerprint(x) if _is_missing(own_id) else str(own_id),
        x=x,
        answer=answer,
        mode=mode,
        source="" if _is_missing(source) else str(source),
        **code,
    )
    _check_unicode(problem)
    return problem


def _of_other_type(record: dict[str, Any], names: tuple[str, ...]) -> str | None:
    """The first of these fields that holds something that is no text, and what that is."""
    for name in names:
        if isinstance(value := record.get(name), (list, dict)):
            chat = isinstance(value, list) and any(isinstance(part, dict) and "content" in part for part in value)
            return f"{name} as a {'list of chat messages' if chat else type(value).__name__} instead of text"
    return None


def _is_missing(value: Any) -> bool:
    """None, an empty text, and the NaN of a table."""
    return value in (None, "") or (isinstance(value, float) and not math.isfinite(value))


def _check_unicode(problem: Problem) -> None:
    """Raises ValueError for a lone surrogate, half of a character, which no tokenizer or file takes."""
    for name, value in asdict(problem).items():
        try:
            (value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)).encode()
        except UnicodeEncodeError as error:
            code = f"U+{ord(error.object[error.start]):04X}"
            raise ValueError(f"not valid Unicode: a lone surrogate ({code}) in its {name}") from None


def _statement(record: dict[str, Any], description: str) -> str:
    """The text of a code problem without a prompt: its description, formats, notes and examples."""
    parts = {name: _first_text(record, (name,)) for name in STATEMENT_PARTS}
    tests = _test_list(record.get(EXAMPLES))
    examples = [f"Input\n{test['input']}\nOutput\n{test['output']}" for test in tests]
    titled = [f"{name.replace('_', ' ').capitalize()}\n{text}" for name, text in parts.items() if text]
    return "\n\n".join([description, *titled, *(f"Example\n{example}" for example in examples)])


def _code_fields(record: dict[str, Any]) -> dict[str, Any]:
    """The fields that a program is judged by. Raises ValueError when they are missing or unusable."""
    if _first_text(record, (INTERACTION,)):
        raise ValueError("an interactive problem: its program would have to interact with the judge")
    tests = _tests(record)
    if not tests:
        fields = f"{', '.join(TEST_FIELDS)}, or {' and '.join(FUNCTION_FIELDS)}"
        raise ValueError(f"no tests: expected one of {fields}")
    limits = {}
    for field, name in LIMITS.items():
        if record.get(field) is not None:
            if type(record[field]) not in (int, float) or not 0 < record[field] < math.inf:
                raise ValueError(f"{field}: expected a number above 0, found {record[field]!r:.80}")
            limits[name] = record[field]  # the judge lowers limits beyond reason (sandbox/limits.py)
    files = {name: _first_text(record, (name,)) or "" for name in FILES}
    if record.get(INPUT_MODE) == "file":
        files = {name: files[name] or default for name, default in FILES.items()}
    for name, file in files.items():
        valid = re.fullmatch(r"[\w.-]*", file) and len(file.encode()) <= MAX_NAME_BYTES
        if not valid or file.startswith((".", "-")):
            raise ValueError(f"{name}: expected a plain file name, found {file!r:.80}")
    return {"tests": tests, "limits": limits, "checker": _first_text(record, (CHECKER,)) or "", **files}


def _tests(record: dict[str, Any]) -> list[dict]:
    """The tests without duplicates, since examples are often official tests as well.

    Raises ValueError for a test without an input or output, and for one that cannot judge.
    """
    test, entry_point = (record.get(name) for name in FUNCTION_FIELDS)
    if isinstance(test, str) and isinstance(entry_point, str):
        if reason := why_tests_cannot_judge(test, entry_point):
            raise ValueError(reason)
        return [{"test": test, "entry_point": entry_point}]
    tests = [test for name in TEST_FIELDS for test in _test_list(record.get(name))]
    for test in tests:
        if not isinstance(test, dict) or not all(isinstance(test.get(part), str) for part in ("input", "output")):
            raise ValueError(f"a test needs an input and an output, found {test!r:.80}")
    pairs = dict.fromkeys((test["input"], test["output"]) for test in tests)
    return [{"input": input_, "output": output} for input_, output in pairs]


def has_enough_tests(problem: Problem, min_tests: int) -> bool:
    """Tests that call a function are one record, however many they are; they always count as enough."""
    return len(problem.tests) >= min_tests or "entry_point" in problem.tests[0]


def has_only_examples(record: dict[str, Any]) -> bool:
    """All tests of a code problem are shown in its text, so that a program can print their outputs."""
    return bool(_test_list(record.get(EXAMPLES))) and not any(
        _test_list(record.get(name)) for name in TEST_FIELDS if name != EXAMPLES
    )


def _test_list(tests: Any) -> list:
    """The tests as a list; `datasets` may return them by column, as {"input": [...], "output": [...]}."""
    if isinstance(tests, dict) and all(isinstance(tests.get(part), list) for part in ("input", "output")):
        pairs = zip(tests["input"], tests["output"], strict=True)
        return [{"input": input_, "output": output} for input_, output in pairs]
    return tests if isinstance(tests, list) else []


def _first_text(record: dict[str, Any], names: tuple[str, ...]) -> str | None:
    """The first of these fields that holds text or a number, as stripped text."""
    for name in names:
        value = record.get(name)
        # In a table, NaN means that a number is missing.
        if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
            value = str(value)
        if isinstance(value, str) and value.strip():
            return value.strip()
    return None
