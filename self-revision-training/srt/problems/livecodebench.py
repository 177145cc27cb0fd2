"""LiveCodeBench's records: tests as JSON in text, the hidden ones compressed; for programs and for functions."""

import base64
import binascii
import io
import json
import pickle
import zlib
from typing import Any

FIELDS = (
    "question_id",
    "question_content",
    "starter_code",
    "public_test_cases",
    "private_test_cases",
    "metadata",
)
Record = dict[str, Any]

_CALLS = """import json


def check(candidate):
    for arguments, expected in json.loads({cases!r}):
        result = candidate(*arguments)
        assert (list(result) if isinstance(result, tuple) else result) == expected
"""


def from_livecodebench(record: Record) -> Record:
    """A record as `parse_problem` reads it. Raises ValueError, with the reason, if it cannot be used.

    Programs are judged by input and output, functions by calls of the method that the starter code shows.
    """
    public = _tests(record.get("public_test_cases"), "public_test_cases")
    tests = [*public, *_tests(record.get("private_test_cases"), "private_test_cases")]
    if not tests:
        raise ValueError("no tests: public_test_cases and private_test_cases are empty")
    kinds = {test.get("testtype") for test in tests}
    if kinds not in ({"stdin"}, {"functional"}):
        raise ValueError(f"expected tests of the type stdin or functional, found {sorted(map(str, kinds))}")
    converted: Record = {"id": record.get("question_id"), "prompt": _prompt(record)}
    if kinds == {"stdin"}:
        hidden = tests[len(public) :]
        return converted | {"examples": public, "official_tests": hidden}
    metadata = record.get("metadata")
    name = (json.loads(metadata) if isinstance(metadata, str) and metadata else metadata or {}).get("func_name")
    if not name:
        raise ValueError("no func_name in its metadata: nothing says which function its tests call")
    cases = [[_arguments(test["input"]), json.loads(test["output"])] for test in tests]
    entry_point = f"Solution().{name}" if "class Solution" in (record.get("starter_code") or "") else name
    return converted | {"test": _CALLS.format(cases=json.dumps(cases)), "entry_point": entry_point}


def _prompt(record: Record) -> str:
    question, starter = record.get("question_content") or "", record.get("starter_code") or ""
    if not starter.strip():
        return question
    return f"{question}\n\nComplete this code:\n\n```python\n{starter.rstrip()}\n```"


def _arguments(text: str) -> list[Any]:
    """One JSON value per line."""
    return [json.loads(line) for line in text.split("\n") if line.strip()]


def _tests(text: Any, field: str) -> list[dict[str, str]]:
    """The tests in a field: JSON, or (hidden tests) JSON that is pickled, compressed and in base64."""
    if not text:
        return []
    try:
        tests = json.loads(text)
    except ValueError:
        tests = _compressed(text, field)
    if not isinstance(tests, list) or not all(
        isinstance(test, dict) and {"input", "output"} <= test.keys() for test in tests
    ):
        raise ValueError(f"{field}: expected a list of tests, each with input and output")
    return tests


def _compressed(text: str, field: str) -> Any:
    try:
        data = zlib.decompress(base64.b64decode(text, validate=True))
        content = _TextUnpickler(io.BytesIO(data)).load()
        return json.loads(content)
    except (binascii.Error, zlib.error, pickle.UnpicklingError, EOFError, TypeError, ValueError) as error:
        raise ValueError(f"{field}: neither JSON nor compressed JSON ({error})") from None


class _TextUnpickler(pickle.Unpickler):
    """Reads text and nothing else: an ordinary unpickler would run code that a dataset contains."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        raise pickle.UnpicklingError(f"expected text, found {module_name}.{global_name}")
