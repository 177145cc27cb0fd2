"""Verdicts on functions need evidence, and failures of the tests are none."""

import pytest

from srt.verifiers.code.function_submission import null_program
from tests.srt.helpers.code_cases import adding
from tests.srt.helpers.function_cases import failure, verdict

pytestmark = pytest.mark.bwrap

RIGHT = "def add(a, b):\n    return [n + b for n in a]"
WRONG = "def add(a, b):\n    return 'nonsense'"

# Evidence: tests of every style run ---------------------------------------------------------------------

STYLES = {
    "pytest": "def test_one():\n    assert add([1], 2) == [3]\n\ndef test_two():\n    assert add([], 2) == []",
    "pytest, with the function": "def test_one(candidate):\n    assert candidate([1], 2) == [3]",
    "pytest, async": "async def test_one():\n    assert add([1], 2) == [3]",
    "pytest class": "class TestAdd:\n    def setup_method(self):\n        self.a = [1]\n\n"
    "    def test_one(self):\n        assert add(self.a, 2) == [3]",
    "pytest class, with arguments": "class TestAdd:\n    @classmethod\n    def setup_class(cls):\n"
    "        cls.a = [1]\n    def setup_method(self, method):\n        self.b = len(method.__name__) - 6\n\n"
    "    def test_one(self):\n        assert add(self.a, self.b) == [3]",
    "pytest, prepared": "def setup_module(module):\n    module.A = [1]\n\ndef setup_function():\n"
    "    A.append(0)\n\ndef test_one():\n    assert add(A, 2) == [3, 2]",
    "unittest, prepared": "import unittest\n\ndef setUpModule():\n    global A\n    A = [1]\n\n"
    "class Adding(unittest.TestCase):\n    @classmethod\n    def setUpClass(cls):\n        cls.b = 2\n"
    "    def test_one(self):\n        self.assertEqual(add(A, self.b), [3])",
    "unittest": "import unittest\n\nclass Adding(unittest.TestCase):\n    def setUp(self):\n        self.a = [1]\n"
    "    def test_one(self):\n        with self.subTest(1):\n            self.assertEqual(add(self.a, 2), [3])\n\n"
    "if __name__ == '__main__':\n    unittest.main()",
    "unittest.main()": "from unittest import TestCase, main\n\nclass Adding(TestCase):\n    def test_one(self):\n"
    "        self.assertEqual(add([1], 2), [3])\n\nmain()",
    "unittest, async": "import unittest\n\nclass Adding(unittest.IsolatedAsyncioTestCase):\n"
    "    async def test_one(self):\n        self.assertEqual(add([1], 2), [3])",
    "another name": "def check_add(candidate):\n    assert candidate([1], 2) == [3]",
    "async check": "async def check(candidate):\n    assert candidate([1], 2) == [3]",
    "check gives a bool": "def check(candidate):\n    return candidate([1], 2) == [3]",
    "top level": "assert add([1], 2) == [3]\nassert candidate([2], 2) == [4]",
    "calls its own check": "def check(f):\n    assert f([1], 2) == [3]\n\ncheck(add)",
    "a script": "def run():\n    assert add([1], 2) == [3]\n\nif __name__ == '__main__':\n    run()",
    "one test": "def test(f):\n    assert f([1], 2) == [3]",
    "a module": "from solution import add as plus\n\ndef test_one():\n    assert plus([1], 2) == [3]",
}


@pytest.mark.parametrize("style", STYLES)
def test_tests_of_every_style_run(style):
    assert verdict(RIGHT, STYLES[style]).correct
    refused = verdict(WRONG, STYLES[style])
    assert not refused.correct and "wrong answer" in refused.reason


@pytest.mark.parametrize(
    "test",
    [
        "def check(candidate):\n    print(candidate([1], 2) == [3])\n    assert True",
        "def check(candidate):\n    result = candidate([1], 2)\n    assert result is result",
        "def check(candidate):\n    candidate([1], 2) == [3]\n    assert callable(candidate)",
        "def check(candidate):\n    try:\n        assert candidate([1], 2) == [3]\n    except: pass",
        "def check(candidate):\n    assert (candidate([1], 2) == [3], 'always true')",
        "import unittest\nclass T(unittest.TestCase):\n    @unittest.expectedFailure\n    def test_one(self):\n"
        "        self.assertEqual(add([1], 2), [4])",
    ],
)
def test_tests_that_accept_anything_are_no_evidence(test):
    for program in (RIGHT, WRONG):
        kind, words = failure(program, test)
        assert kind == "tests that cannot judge" and "whatever the function returns" in words


def test_tests_that_only_look_at_exceptions_can_judge():
    test = "def check(c):\n    try:\n        c([1], 'x')\n    except TypeError:\n        return\n    assert 0"
    assert verdict(RIGHT, test).correct and not verdict(WRONG, test).correct


def test_programs_that_solve_nothing():
    namespace = {}
    exec(null_program("Solution().add", "None") + null_program("plus", "7"), namespace)
    assert namespace["Solution"]().add(1, b=2) is None and namespace["plus"](1) == 7


# Exceptions that mean something to the tests' control flow ----------------------------------------------


@pytest.mark.parametrize(
    "error", ["StopIteration", "StopAsyncIteration", "GeneratorExit", "SystemExit", "KeyboardInterrupt"]
)
def test_no_exception_ends_the_tests_early(error):
    test = """
def check(candidate):
    for got, want in zip(map(candidate, [[1], [4, 0]], [2, 5]), [[3], [9, 5]]):
        assert got == want
    assert all(candidate(a, 1) == [2] for a in [[1]])
    assert list(map(candidate, [[1]], [1])) == [[2]]
"""
    program = f"class Mine({error}): pass\n" if error != "SystemExit" else "Mine = SystemExit\n"
    refused = verdict(program + "def add(a, b):\n    raise Mine", test)
    assert not refused.correct and error in refused.reason
    assert "wrong answer" in refused.reason
    x = f"class Done({error}): pass"  # a class that the tests know, too
    assert not verdict("def add(a, b):\n    raise Done", test, x=x).correct
    assert verdict(RIGHT, test).correct


def test_a_skipped_test_is_no_passed_test():
    test = STYLES["unittest"]
    program = "import unittest\ndef add(a, b):\n    raise unittest.SkipTest('easy')"
    assert "wrong answer: Exception: easy" in verdict(program, test).reason
    skipped = test.replace("    def test_one", "    @unittest.skip('later')\n    def test_one")
    assert failure(RIGHT, skipped)[0] == "tests that do not call the function"


@pytest.mark.parametrize("end", ["os._exit(1)", "os._exit(0)", "os.kill(os.getpid(), 15)", "os.closerange(3, 99)"])
def test_the_end_of_the_program_is_part_of_the_verdict(end):
    test = "def check(c):\n    try:\n        c([1], 'a')\n    except:\n        return\n    assert False"
    refused = verdict(f"import os\ndef add(a, b):\n    {end}", test)
    assert not refused.correct and "runtime error" in refused.reason
    later = "def check(c):\n    try:\n        c([1], 2)\n        c([1], 'a')\n    except: pass\n"
    assert not verdict(
        f"import os\ndef add(a, b):\n    if b == 'a': {end}\n    return 3", later + "    assert 1"
    ).correct


def test_exceptions_arrive_as_they_were_raised():
    x = """
class Full(ValueError):
    def __init__(self, size):
        super().__init__(f"{size} is too much")
        self.size = size
"""
    program = """
import json, decimal
class Own(KeyError):
    pass
def add(a, b):
    if a == 0: raise Full(b)
    if a == 1: raise Own("k")
    if a == 2: json.loads("{")
    if a == 3: decimal.Decimal(1) / 0
    if a == 4: raise SystemExit(b)
    if a == 5: open("/no/such/file")
"""
    test = """
import decimal, errno, json
for a, error, text in [(0, Full, "3 is too much"), (1, KeyError, "'k'"), (2, json.JSONDecodeError, None),
                       (3, decimal.DivisionByZero, None), (3, ZeroDivisionError, None), (4, SystemExit, "3"),
                       (5, FileNotFoundError, None)]:
    try:
        add(a, 3)
    except error as e:
        assert text is None or str(e) == text, str(e)
        assert a != 5 or e.errno == errno.ENOENT
        assert a != 0 or (e.size, e.args) == (3, ("3 is too much",))
    else:
        assert False, a
"""
    assert verdict(program, test, x=x).reason == "passed 1 of 1 tests"


# Our failures --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("test", "kind"),
    [
        ("import no_such_module\nassert add([1], 2) == [3]", "tests with a missing module"),
        (
            "def check(c):\n    assert c([1], 2) == [3]\n    from no.such import thing",
            "tests with a missing module",
        ),
        ("def check(c):\n    assert c([1], 2) == [3]\n    assert undefined", "tests that break"),
        ("def test_one():\n    assert add([1], 2) == expected", "tests that break"),
        ("def check(c):\n    assert 1 == 2\n    c([1], 2)", "tests that break"),
        ("import sys\nassert add([1], 2) == [3]\nsys.exit()", "tests that exit"),
        ("assert add([1], 2) == [3]\nexit(1)", "tests that exit"),
        ("import os\nassert add([1], 2) == [3]\nos._exit(0)", "tests that crash"),
        ("def check(c):\n    assert c([1], 2) == [3]\n    return 'fine'", "tests that break"),
        (
            "def add(a, b):\n    return [3]\ndef test_one():\n    assert add([1], 2) == [3]",
            "tests that do not call the function",
        ),
        ("def check(candidate:", "tests that cannot judge"),
        ("", "tests that cannot judge"),
    ],
)
def test_what_is_wrong_with_the_tests_is_no_verdict(test, kind):
    for program in (RIGHT, WRONG):
        try:
            assert failure(program, test)[0] == kind
        except pytest.fail.Exception:
            assert program == WRONG  # it failed the tests before they broke
            assert "wrong answer: AssertionError" in verdict(program, test).reason


def test_the_tests_own_time_is_not_the_programs():
    slow = "import time\ndef check(c):\n    while time.process_time() < 0.8: pass\n    assert c([1], 2) == [3]"
    limits = {"time_seconds": 0.3}
    assert verdict(RIGHT, slow, limits=limits).correct
    assert "time limit" in verdict(f"while True: pass\n{RIGHT}", slow, limits=limits).reason


def test_tests_that_never_end_are_no_verdict(monkeypatch):
    monkeypatch.setattr("srt.verifiers.code.function_submission.TESTS_CPU_SECONDS", 1)
    kind, _ = failure(RIGHT, "def check(c):\n    while True: c([1], 2)\n    assert 0", limits={"time_seconds": 5})
    assert kind == "tests over their time limit"


def test_a_program_that_waits_is_stopped_at_its_wall_clock_limit():
    program = "import time\ntime.sleep(100)\n" + RIGHT
    test = "def check(c):\n    assert c([0] * 10**6, 2) == [2] * 10**6"  # more than a pipe holds
    refused = verdict(program, test, limits={"time_seconds": 0.5})
    assert "time limit (wall-clock limit: 4.5 s)" in refused.reason


def test_what_stays_behind_is_measured():
    staying = "import threading, time\nthreading.Thread(target=time.sleep, args=(60,)).start()\n" + RIGHT
    assert verdict(staying, adding().tests[0]["test"]).correct
    memory = "x = b'x' * (600 * 2**20)\n" + staying
    assert "memory limit" in verdict(memory, adding().tests[0]["test"], limits={"memory_mb": 64}).reason
    time = "import time\nwhile time.process_time() < 0.6: pass\n" + staying
    assert "time limit" in verdict(time, adding().tests[0]["test"], limits={"time_seconds": 0.2}).reason
    endless = "import os\nif os.fork(): os.wait(); os._exit(0)\nelse: os.setsid()\n" + RIGHT
    assert verdict(endless, adding().tests[0]["test"]).correct


def test_a_program_that_outlives_its_tests_is_wrong():
    program = "import os, time\nif os.fork(): time.sleep(100)\n" + RIGHT
    assert "did not end after its tests" in verdict(program, adding().tests[0]["test"]).reason
