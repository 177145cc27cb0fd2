"""Verdicts on functions: they need evidence, they are those of a run in one process, and our failures are none."""

import pytest

from srt.contract.records import Problem
from srt.verifiers.code.function_submission import null_program
from srt.verifiers.types import VerifierError
from tests.srt.helpers.code_cases import adding, fenced, judge

pytestmark = pytest.mark.bwrap

RIGHT = "def add(a, b):\n    return [n + b for n in a]"
WRONG = "def add(a, b):\n    return 'nonsense'"


def verdict(program, test, x="?", entry_point="add", limits=None):
    problem = Problem(
        "p", x, "", mode="code", tests=[{"test": test, "entry_point": entry_point}], limits=limits or {}
    )
    return judge().judge(fenced(program), problem)


def failure(program, test, **more):
    """(kind, text) of the VerifierError."""
    with pytest.raises(VerifierError) as caught:
        verdict(program, test, **more)
    return caught.value.kind, str(caught.value)


# Evidence: tests of every style run ---------------------------------------------------------------------

STYLES = {
    "pytest": "def test_one():\n    assert add([1], 2) == [3]\n\ndef test_two():\n    assert add([], 2) == []",
    "pytest, with the function": "def test_one(candidate):\n    assert candidate([1], 2) == [3]",
    "pytest, async": "async def test_one():\n    assert add([1], 2) == [3]",
    "pytest class": "class TestAdd:\n    def setup_method(self):\n        self.a = [1]\n\n"
    "    def test_one(self):\n        assert add(self.a, 2) == [3]",
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
    assert not refused.correct and error in refused.reason + "Mine"
    assert "wrong answer" in refused.reason
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


# Values --------------------------------------------------------------------------------------------------

PREAMBLE = """
import collections, dataclasses
@dataclasses.dataclass
class Point:
    x: int
    y: int = 0
Row = collections.namedtuple("Row", "a b")
class Node:
    def __init__(self, value, next=None):
        self.value, self.next = value, next
"""
RETURNED = [
    ("fractions.Fraction(1, 3)", "fractions.Fraction(2, 6)"),
    ("decimal.Decimal('1.5')", "decimal.Decimal('1.50')"),
    ("datetime.date(2026, 1, 2)", "datetime.date(2026, 1, 2)"),
    ("datetime.timedelta(1) + datetime.datetime(2026, 1, 2)", "datetime.datetime(2026, 1, 3)"),
    ("collections.deque([1, 2])", "collections.deque([1, 2])"),
    ("collections.Counter('aab')", "collections.Counter(a=2, b=1)"),
    ("collections.OrderedDict(a=1)", "{'a': 1}"),
    ("collections.defaultdict(int, a=1)", "{'a': 1}"),
    ("{1: 2, 3: 4}.keys()", "{1, 3}"),
    ("{1: 2}.items()", "{(1, 2)}"),
    ("range(3)", "range(3)"),
    ("array.array('i', [1])", "array.array('i', [1])"),
    ("bytearray(b'x')", "b'x'"),
    ("1j", "1j"),
    ("10**5000", "10**5000"),
    ("Point(1)", "Point(1, 0)"),
    ("[Row(1, 2)]", "[(1, 2)]"),
    ("Row(1, 2).a", "1"),
]


def test_values_of_every_type_are_judged():
    names = "import array, collections, datetime, decimal, fractions\n"
    program = names + "def add(a, b):\n    return [" + ", ".join(value for value, _ in RETURNED) + "]"
    tests = "".join(f"assert got[{i}] == {expected}, {i}\n" for i, (_, expected) in enumerate(RETURNED))
    assert verdict(program, f"{names}got = add(1, 2)\n{tests}", x=PREAMBLE).reason == "passed 1 of 1 tests"
    for index in (0, 4, 15):
        value = RETURNED[index][0].replace("1", "9")
        changed = program.replace(RETURNED[index][0], value, 1)
        assert not verdict(changed, f"{names}got = add(1, 2)\n{tests}", x=PREAMBLE).correct


def test_iterators_are_asked_as_the_tests_go_on():
    program = """
import itertools
def add(a, b):
    if b == 0: return itertools.count(a)
    if b == 1: return map(str, range(1000))
    if b == 2: return reversed([1, 2])
    if b == 3: return (n for n in itertools.chain([1], [2]))
    if b == 4: return iter({1: 2})
    if b == 5: return [iter([1]), zip([1], [2])]
    if b == 6: return sum(a)
    def changing():
        a.append(1)
        yield len(a)
        a.append(2)
    return changing()
"""
    test = """
import itertools, types
assert list(itertools.islice(add(5, 0), 3)) == [5, 6, 7]
assert [int(s) for s in add(0, 1)] == list(range(1000))
assert list(add(0, 2)) == [2, 1] and add(0, 2) != [2, 1]
generator = add(0, 3)
assert isinstance(generator, types.GeneratorType) and next(generator) == 1 and list(generator) == [2]
assert list(add(0, 4)) == [1]
first, second = add(0, 5)
assert (list(second), list(first)) == ([(1, 2)], [1])
assert add(iter([1, 2]), 6) == add((n for n in (1, 2)), 6) == 3
a = []
changing = add(a, 7)
assert a == [] and next(changing) == 1 and a == [1] and list(changing) == [] and a == [1, 2]
"""
    assert verdict(program, test).reason == "passed 1 of 1 tests"


def test_coroutines_are_awaited():
    program = (
        "import asyncio\nasync def add(a, b):\n    await asyncio.sleep(0)\n"
        "    if b == 7: raise ValueError(b)\n    return a + b\n"
    )
    test = """
import asyncio
async def check(candidate):
    assert await candidate(1, 2) == 3
    assert await asyncio.gather(candidate(1, 1), candidate(2, 2)) == [2, 4]
    try:
        await candidate(1, 7)
    except ValueError:
        return
    assert False
"""
    assert verdict(program, test).correct
    assert not verdict(program.replace("a + b", "a - b"), test).correct
    counting = "async def add(a, b):\n    for n in range(a, b):\n        yield n"
    test = "async def check(candidate):\n    assert [n async for n in candidate(1, 4)] == [1, 2, 3]"
    assert verdict(counting, test).correct


def test_linked_structures_and_a_class_that_the_program_defines_again():
    program = (
        PREAMBLE
        + """
def add(node, b):
    values = []
    while node:
        values.append(node.value)
        last, node = node, node.next
    last.next = Node(b)
    return Point(sum(values), b)
"""
    )
    test = "n = Node(1, Node(2))\np = add(n, 9)\nassert p == Point(3, 9)\nassert n.next.next.value == 9"
    assert verdict(program, test, x=PREAMBLE).reason == "passed 1 of 1 tests"
    program = program.replace("    y: int = 0", "    y: int = 0\n    def __eq__(self, other): return True")
    assert not verdict(program.replace("sum(values)", "0"), test, x=PREAMBLE).correct


@pytest.mark.parametrize(
    ("body", "test"),
    [
        ("return lambda c: a + b + c", "assert add(1, 2)(3) == 6"),
        ("return Thing(a + b)", "assert add(1, 2).value == 3"),
        ("return Thing(a + b)", "assert str(add(1, 2)) == 'three'"),
        ("return Thing(a + b)", "assert add(1, 2) > 2"),
        ("return a(b)", "assert add(lambda n: n, 2) == 2"),
        ("return a", "import itertools\nassert add(itertools.count(), 2) == 2"),
        ("raise StopIteration", "try:\n    add(1, 2)\nexcept StopIteration:\n    pass\nelse:\n    assert False"),
    ],
)
def test_what_needs_more_than_plain_data_is_set_aside(body, test):
    program = f"class Thing:\n    def __init__(self, value): self.value = value\ndef add(a, b):\n    {body}"
    assert failure(program, test)[0] == "tests that need more than plain data"


def test_an_object_of_the_programs_own_equals_nothing():
    program = "class Same:\n    def __eq__(self, other): return True\n    def __bool__(self): return True\n"
    program += "def add(a, b): return Same()"
    for test in (
        "assert add(1, 2) == 3",
        "assert add(1, 2) == 3, f'got {add(1, 2)}'",
        "import unittest\nclass T(unittest.TestCase):\n    def test_one(self): self.assertEqual(add(1, 2), 3)",
        "assert add(1, 2) in (1, 2, 3)",
        "assert [add(1, 2)] == [3]",
    ):
        assert "wrong answer: AssertionError" in verdict(program, test).reason


# The verdict of a run in one process ---------------------------------------------------------------------

IN_PLACE = [
    ("a.append(b)\n    return a", "a = [1]\nr = add(a, 2)\nassert r is a and a == [1, 2]"),
    ("a.sort()\n    return a", "a = [2, 1]\nassert add(a, 0) == sorted(a)"),
    ("a.clear()\n    return []", "a = [2, 1]\nassert add(a, 0) == sorted(a)"),
    ("a.clear()\n    return []", "a = [2, 1]\nexpected = sorted(a)\nassert add(a, 0) == expected"),
    (
        "a[0].append(b)\n    return sum(map(len, a))",
        "row = [1]\ngrid = [row, row]\nassert add(grid, 2) == 4 and row == [1, 2]",
    ),
    (
        "a[0].append(b)\n    return sum(map(len, a))",
        "row = [1]\ngrid = [row, [1]]\nassert add(grid, 2) == 3 == len(row) + 1",
    ),
    ("a['k'] = [b]\n    return a['k']", "d = {}\nr = add(d, 5)\nr.append(6)\nassert d == {'k': [5, 6]}"),
    ("a |= {b}\n    return len(a)", "s = {1}\nassert add(s, 2) == 2 and s == {1, 2}"),
    ("a = a + [b]\n    return a", "s = [1]\nassert add(s, 2) == [1, 2] and s == [1]"),
    ("a[0] = b\n    return a", "t = ([1], 2)\nassert add(t[0], 3) == [3] and t == ([3], 2)"),
    ("a[0] = b\n    return a", "s = [1]\nadd(a=s, b=True)\nassert s[0] is True"),
    (
        "a[:] = [b, a[0]]\n    raise ValueError",
        "s = [1]\ntry:\n    add(s, 2)\nexcept ValueError:\n    assert s == [2, 1]\nelse:\n    assert 0",
    ),
    (
        "a.rotate(b)\n    a.appendleft(0)",
        "import collections\nd = collections.deque([1, 2], 3)\nadd(d, 1)\nassert list(d) == [0, 2, 1]",
    ),
    ("a[0:1] = b\n    return len(a)", "s = bytearray(b'xy')\nassert add(s, b'abc') == 4 and s == b'abcy'"),
    (
        "a[b] += 1\n    return a",
        "import collections\nc = collections.Counter()\nassert add(c, 'x') is c and c['x'] == 1",
    ),
    ("a.append(a)\n    return a", "s = []\nassert add(s, 0)[0][0] is s"),
    ("del a[b]\n    return a", "s = [[1], [2]]\nkept = s[1]\nassert add(s, 0)[0] is kept"),
]


def in_process(program, test):
    """Whether the test passes when it shares a process with the program."""
    namespace = {"__name__": "tests"}
    try:
        exec(program, namespace)
        exec(test, namespace)
    except Exception:
        return False
    return True


@pytest.mark.parametrize(("body", "test"), IN_PLACE)
def test_changes_of_arguments_are_seen_as_in_one_process(body, test):
    program = f"def add(a, b):\n    {body}"
    assert verdict(program, test).correct == in_process(program, test)


def test_the_function_gets_copies():
    # What the tests do with an argument afterwards does not reach into the program, nor the other way round.
    program = "kept = []\ndef add(a, b):\n    kept.append(a)\n    if b: kept[0][:] = [9]\n    return len(kept)"
    test = "first = [1]\nadd(first, 0)\nadd([2], 1)\nassert first == [1] and add([3], 0) == 3"
    assert verdict(program, test).correct


# Methods -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("entry_point", ["Solution.add", "Solution().add"])
@pytest.mark.parametrize("decorator", ["", "@staticmethod", "@classmethod"])
def test_a_method_is_called_on_an_instance(entry_point, decorator):
    arguments = "a, b" if decorator == "@staticmethod" else "self, a, b"
    program = f"class Solution:\n    {decorator}\n    def add({arguments}):\n        return [n + b for n in a]"
    test = (
        "def check(candidate):\n    assert candidate(a=[1], b=2) == [3]\n"
        "    assert Solution().add([1], 2) == [3]\n"
        "    assert Solution.add([1], 2) == [3]"
    )
    assert verdict(program, test, entry_point=entry_point).correct
    assert not verdict(program.replace("+", "-"), test, entry_point=entry_point).correct


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
    refused = verdict(program, test, limits={"time_seconds": 0.1})
    assert "time limit (wall-clock limit: 4.4 s)" in refused.reason


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
