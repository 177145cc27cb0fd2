"""What the tests and limits of code problems are worth: problems with examples only, MIN_TESTS, absurd limits."""

import json

import pytest

from srt.common.errors import UserError
from srt.contract.records import SampleKey
from srt.problems import load_problems

SHOWN = [{"input": "1\n", "output": "2\n"}]
HIDDEN = [{"input": f"{n}\n", "output": f"{n + 1}\n"} for n in range(5)]


def load(tmp_path, *records, **options):
    path = tmp_path / "problems.jsonl"
    path.write_text("".join(json.dumps({"id": str(n), "prompt": "?"} | r) + "\n" for n, r in enumerate(records)))
    return load_problems(str(path), "code", **options)


def test_problems_with_examples_only_are_named_and_counted(tmp_path, capsys):
    loaded = load(
        tmp_path, {"examples": SHOWN}, {"examples": SHOWN, "official_tests": HIDDEN}, {"test_cases": HIDDEN}
    )
    assert loaded.examples_only == {"0"} and loaded.too_few_tests == 0
    assert loaded.num_examples_only([SampleKey(0, 0), SampleKey(1, 0), SampleKey(0, 1, 0)]) == 2
    assert "1 of 3 problems have no tests but the examples in their text" in capsys.readouterr().out
    load(tmp_path, {"test_cases": SHOWN})
    assert "examples" not in capsys.readouterr().out


def test_min_tests_leaves_out_problems_with_few_tests(tmp_path, capsys):
    function = {"test": "def check(c):\n    assert c(1) == 2", "entry_point": "f"}
    records = [{"examples": SHOWN}, {"examples": SHOWN, "official_tests": HIDDEN}, function]
    loaded = load(tmp_path, *records, min_tests=2)
    assert [problem.id for problem in loaded.problems] == ["1", "2"]
    assert loaded.too_few_tests == 1 and not loaded.examples_only and not loaded.bad
    assert "MIN_TESTS=2 leaves out 1 problems" in capsys.readouterr().out
    assert loaded.fingerprint != load(tmp_path, *records).fingerprint
    with pytest.raises(UserError, match="MIN_TESTS=9 leaves out all 1 problems"):
        load(tmp_path, records[0], min_tests=9)


def test_limits_beyond_reason_are_no_bad_record(tmp_path):
    """The judge lowers them (tests/srt/verifiers/code/test_problem_limits.py)."""
    record = {"examples": SHOWN, "time_limit": 1e30, "memory_limit": 2**28}
    assert load(tmp_path, record).problems[0].limits == {"time_seconds": 1e30, "memory_mb": 2**28}


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"time_limit": float("nan")}, "time_limit: expected a number above 0, found nan"),
        ({"memory_limit": 0}, "memory_limit: expected a number above 0"),
        ({"time_limit": "2 s"}, "time_limit: expected a number above 0"),
        ({"input_file": "n" * 300}, "input_file: expected a plain file name"),
        ({"output_file": "a/b"}, "output_file: expected a plain file name"),
    ],
)
def test_limits_and_names_that_cannot_be_used_are_bad_records(tmp_path, fields, reason):
    bad = load(tmp_path, {"examples": SHOWN}, {"examples": SHOWN} | fields).bad
    assert len(bad) == 1 and reason in bad[0]["reason"]
