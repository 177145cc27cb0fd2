"""Values between tests and functions, and verdicts that are those of a run in one process."""

import sys
from pathlib import Path

import pytest

from srt.verifiers.code import function_submission, languages
from tests.srt.helpers.function_cases import failure, verdict

pytestmark = pytest.mark.bwrap

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


# Numpy ---------------------------------------------------------------------------------------------------


def test_numpy_where_the_interpreter_has_it(monkeypatch):
    pytest.importorskip("numpy")
    # That of the tests, since the judge's own has no packages.
    folder = Path(sys.prefix).resolve()
    tool = languages.Toolchain(str(folder / "bin" / "python"), (folder, Path(sys.base_prefix)))
    monkeypatch.setattr(function_submission, "toolchain", lambda language: tool)
    test = """
import numpy as np
def check(candidate):
    a = np.arange(4.0)
    doubled = candidate(a, 2)
    assert isinstance(doubled, np.ndarray) and np.allclose(doubled, [0, 2, 4, 6])
    assert a[0] == 9
    assert candidate(np.int64(3), 2) == 6 and isinstance(candidate(np.int64(3), 2), np.int64)
"""
    limits = {"time_seconds": 10, "memory_mb": 1000}
    program = "def add(a, b):\n    doubled = a * b\n    if a.shape: a[0] = 9\n    return doubled"
    assert verdict(program, test, limits=limits).correct
    assert "wrong answer" in verdict(program.replace("= 9", "= 8"), test, limits=limits).reason
