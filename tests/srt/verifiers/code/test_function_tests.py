"""Tests that cannot judge are found by reading them, before anything is sampled."""

import pytest

from srt.problems import load_problems
from srt.verifiers.code.function_tests import why_tests_cannot_judge
from tests.srt.helpers.code_cases import CHECK
from tests.srt.helpers.problem_files import write

CANNOT = [
    ("", "the tests are empty"),
    ("# assert add(1) == 2\n", "the tests are empty"),
    ('"""Tests."""\nMETADATA = {}\nimport math\n', "the tests are empty"),
    ("def check(candidate:\n", "the tests are not Python"),
    ("\0", "the tests are not Python"),
    ("def verify(candidate):\n    assert candidate(1)", "define 'verify', which nothing calls"),
    ("def check_other(candidate):\n    assert candidate(1)", "define 'check_other', which nothing calls"),
    ("class Adding:\n    def test_one(self):\n        assert add(1)", "define 'Adding', which nothing calls"),
    ("def check(candidate):\n    yield candidate(1) == 2\n    assert 0", "check is a generator"),
    ("async def check(candidate):\n    yield\n    assert candidate(1)", "check is a generator"),
    ("def test_one():\n    yield add\n    assert add(1)", "test_one is a generator"),
    ("def check():\n    assert add(1) == 2", "take one argument"),
    ("def check(candidate, other):\n    assert candidate(1) == 2", "take one argument"),
    ("def test_one(tmp_path):\n    assert add(1) == 2", "test_one needs tmp_path: fixtures"),
    ("def test_one(a):\n    assert add(a) == 2", "test_one needs a: fixtures"),
    ("class TestAdd:\n    def test_one(self, a, *, b):\n        assert add(a) == 2", "test_one needs a, b"),
    ("def check(candidate):\n    pass", "assert nothing"),
    ("def check(candidate):\n    print(candidate(1) == 2)", "assert nothing"),
    ("def check(candidate):\n    candidate(1) == 2", "assert nothing"),
    ("print(add(1) == 2)", "assert nothing"),
    ("def test_one():\n    assert 1 + 1 == 2", "never use 'add'"),
]
CAN = [
    CHECK,
    "assert add(1) == 2",
    "if add(1) != 2:\n    raise ValueError",
    "def check(candidate):\n    return candidate(1) == 2",
    "def check(candidate):\n    inner = lambda: (yield)\n    assert candidate(1)",
    "def check(candidate, tolerance=1):\n    assert candidate(1) == 2",
    "def test_one(candidate, n=1):\n    assert candidate(n) == 2",
    "import numpy\ndef check(f):\n    numpy.testing.assert_allclose(f(1), 2)",
    "import unittest\nclass A(unittest.TestCase):\n    def setUp(self): pass\n    def test_a(self):\n"
    "        self.assertEqual(add(1), 2)",
    "def check(candidate):\n    compare_with_example(candidate(1), 2)",
    "def check(candidate):\n    exec('assert candidate(1) == 2')",
    "from solution import add as plus\ndef test_one():\n    assert plus(1) == 2",
    "from solution import *\ndef test_one():\n    assert plus(1) == 2",
]


@pytest.mark.parametrize(("test", "reason"), CANNOT)
def test_tests_that_cannot_judge(test, reason):
    assert reason in why_tests_cannot_judge(test, "add")


@pytest.mark.parametrize("test", CAN)
def test_tests_that_can(test):
    assert why_tests_cannot_judge(test, "add") is None


@pytest.mark.parametrize(
    ("entry_point", "fits"),
    [("add", True), ("Solution.add", True), ("Solution().add", True), ("größe", True)]
    + [
        (name, False) for name in ("", "add()", "a b", "Solution.add; x", "1a", "Solution(1).add", "a..b", "add\n")
    ],
)
def test_entry_points(entry_point, fits):
    reason = why_tests_cannot_judge("def check(candidate):\n    assert candidate(1)", entry_point)
    assert (reason is None) == fits and (fits or reason.startswith("entry_point: the name of a function"))


def test_a_record_whose_tests_cannot_judge_is_set_aside_with_the_reason(tmp_path):
    tests = ["assert add(1) == 2", "def check_all(f):\n    assert f(1)", CHECK]
    records = [
        {"id": i, "prompt": f"Add {i}.", "test": test, "entry_point": "add"} for i, test in enumerate(tests)
    ]
    loaded = load_problems(write(tmp_path / "problems.jsonl", records), "code")
    assert [problem.id for problem in loaded.problems] == ["0", "2"]
    (bad,) = loaded.bad
    assert "line 2" in bad["place"] and "define 'check_all', which nothing calls" in bad["reason"]
