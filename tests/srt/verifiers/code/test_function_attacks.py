"""Attacks on tests that call a function, which run in a sandbox of their own."""

from dataclasses import replace

import pytest

from srt.verifiers.code import function_submission
from tests.srt.helpers.attacks import attack
from tests.srt.helpers.code_cases import adding, fenced, judge

# Frames of the protocol and files of the tests' side, as a program that knows all of our code would forge them.
FRAME = """
import json, os, struct, sys, threading, time
def write(message, data=None):
    data = json.dumps(message).encode() if data is None else data
    for fd in range(3, 64):
        try: os.write(fd, struct.pack("<I", len(data)) + data)
        except OSError: pass
"""
RETURNED = '{"kind": "returned", "value": [0], "changed": [], "nodes": [["list", [3]]], "n": 1}'
REPORT = "{'outcome': 'passed', 'message': '', 'num_calls': 2}"
STOP = '{"kind": "stop", "nodes": [], "changed": [], "n": 1}'
FORGERIES = [
    # Replies to requests that were not made yet, or with the number of another.
    f"{FRAME}for n in (1, 2, 3): write(json.loads({RETURNED!r}) | {{'n': n}})\ndef add(a, b): return 0",
    f"{FRAME}def add(a, b):\n    write(json.loads({RETURNED!r}) | {{'n': 7}})\n    return 0",
    f"{FRAME}write({{'started': True}})\nwrite({REPORT})\nos._exit(0)",
    f"{FRAME}write({REPORT})\ndef add(a, b): os._exit(0)",
    f"import json\nprint(json.dumps({REPORT}))\ndef add(a, b): return 0",
    # Values that do not fit, endless ones, deep ones, and nonsense.
    f"{FRAME}def add(a, b):\n    write(None, b'[' * 10**6)",
    f"{FRAME}def add(a, b):\n    write(None, b'\\xff' * 100)",
    f"{FRAME}def add(a, b):\n    write(None, b'1' * 10**6)",
    f"{FRAME}def add(a, b):\n    write({{'kind': 'raised', 'error': {{}}, 'changed': [], 'nodes': [], 'n': 1}})",
    f"{FRAME}def add(a, b):\n    write([[1]])",
    "def add(a, b): return 'x' * 2**26",
    "def add(a, b): return 7 ** 10**6",
    "def add(a, b):\n    for _ in range(10**5): a = [a]\n    return a",
    "def add(a, b):\n    while True: yield 3",
    "def add(a, b):\n    def again():\n        while True: yield again()\n    return again()",
    # What sends and reads the messages, replaced.
    f"import json\njson.dumps = lambda *_: {STOP!r}\ndef add(a, b): pass",
    "import json\njson.loads = json.dumps = None\ndef add(a, b): return [3]",
    "import encoder\nencoder.Encoder.items = lambda *_: [3]\ndef add(a, b): return 0",
    "import decoder\ndecoder.Decoder = None\ndef add(a, b): return 0",
    "import encoder\nencoder.Encoder.node = lambda *_: ['opaque', 0, '__eq__']\ndef add(a, b): return [3]",
    "import os\nos._exit = lambda code: None\ndef add(a, b): return 0",
    "import sys\nsys.modules['__main__'].Program.reply = lambda *_: {}\ndef add(a, b): return 0",
    "import sys\nmain = sys.modules['__main__']\nmain.main = main.find_function = None\ndef add(a, b): return 0",
    # Code that would run on the tests' side, if anything did.
    "class Evil(list):\n    def __reduce__(self): return eval, ('1',)\n    def __eq__(self, other): return True\n"
    "def add(a, b): return Evil()",
    "class int(int):\n    def __eq__(self, other): return True\ndef add(a, b): return [int(0)]",
    "def add(a, b):\n    class AssertionError(BaseException): pass\n    raise AssertionError",
    "def add(a, b):\n    import unittest\n    raise unittest.SkipTest",
    "def add(a, b):\n    import asyncio\n    raise asyncio.CancelledError",
    "def add(a, b):\n    a[:] = [3]\n    return a is b",
]

pytestmark = [pytest.mark.bwrap, pytest.mark.usefixtures("nothing_left_behind")]


@pytest.mark.parametrize(
    "program",
    [
        "import os\nos._exit(0)",
        "import os\ndef add(a, b): os._exit(10)",
        "raise SystemExit(0)",
        "def add(a, b): raise SystemExit(10)",
        "def add(a, b): raise KeyboardInterrupt",
        "class Same:\n    def __eq__(self, other): return True\ndef add(a, b): return Same()",
        "class Same(list):\n    def __eq__(self, other): return True\ndef add(a, b): return Same()",
        "import builtins\nbuiltins.AssertionError = builtins.Exception = None\ndef add(a, b): return 0",
        "def check(candidate): pass\ndef add(a, b): return 0",
        "import os\nfor fd in range(3, 99):\n    try: os.write(fd, b'\\x01\\0\\0\\0N' * 9)\n"
        "    except OSError: pass\ndef add(a, b): return 0",
        "import os\ndef add(a, b):\n    for fd in range(3, 99):\n"
        "        try: os.write(fd, b'\\xff\\xff\\xff\\x7f')\n        except OSError: pass\n    os._exit(0)",
        *FORGERIES,
    ],
)
def test_circumventing_the_tests_of_a_function(program):
    attack(program, adding())


BOX = """class Box:
    kind = int
    def __init__(self, items): self.items = items
    def is_sorted(self): return self.items == sorted(self.items)
class Refused(Exception):
    def is_final(self): return False
"""
SORTED = "def check(candidate):\n    box = candidate([3, 1])\n    assert box.is_sorted()\n"
FINAL = "def check(candidate):\n    try: candidate([])\n    except Refused as e: assert e.is_final()\n"


@pytest.mark.parametrize(
    ("body", "test"),
    [
        ("b = Box(items); b.is_sorted = object; return b", SORTED),
        ("b = Box(items); b.is_sorted = type(None); return [b][0]", SORTED.replace("assert", "assert None is")),
        ("e = Refused(); e.is_final = object; raise e", FINAL),
        ("items.is_sorted = object; return items", SORTED.replace("[3, 1]", "Box([3, 1])")),
    ],
)
def test_a_type_cannot_stand_in_for_a_method_of_the_problems_classes(body, test):
    """A type is plain data, and it can be called: object() is true."""
    problem = replace(adding(test), x=BOX, tests=[{"test": test, "entry_point": "sort"}])
    verdict = judge().judge(fenced(f"def sort(items):\n    {body}\n"), problem)
    assert not verdict.correct and "a type in the place of the method is_" in verdict.reason
    honest = "def sort(items):\n    b = Box(sorted(items)); b.kind = str; return b\n"
    assert judge().judge(fenced(honest), replace(problem, tests=[{"test": SORTED, "entry_point": "sort"}])).correct


def test_a_reply_that_takes_the_tests_too_long_to_read_is_the_programs_failure(monkeypatch):
    monkeypatch.setattr(function_submission, "TESTS_CPU_SECONDS", 2)
    node = "['set', [n * (2**61 - 1) for n in range(300_000)]]"  # all of the same hash
    message = f"{{'n': 1, 'kind': 'returned', 'changed': [], 'value': [2], 'nodes': [{node}]}}"
    program = f"{FRAME}\ndef add(a, b):\n    write({message})\n    os._exit(0)\n"
    verdict = judge().judge(fenced(program), adding())
    assert "output limit: what the function returned takes too much time" in verdict.reason


def test_a_number_of_a_million_digits_is_no_reply():
    program = f"{FRAME}\ndef add(a, b):\n    write(None, b'1' * 10**6)\n    os._exit(0)\n"
    assert "sent what is not a reply (ValueError)" in judge().judge(fenced(program), adding()).reason


def test_the_expected_values_of_a_function_cannot_be_found():
    test = "SECRET = 'evil-' + 'expected'\ndef check(candidate):\n    assert candidate(0, 0) == SECRET\n"
    program = """
import gc, glob, os, sys
def add(a, b):
    for path in glob.glob("/proc/[0-9]*/environ") + glob.glob("/tmp/*") + glob.glob("/proc/self/fd/[0-2]"):
        try:
            if "SEC" "RET" in open(path, errors="replace").read(): return "evil-expected"
        except OSError: pass
    frame = sys._getframe()
    while frame := frame.f_back:
        if "SEC" "RET" in str(frame.f_globals) + str(frame.f_locals): return "evil-expected"
    return "no" if not any(isinstance(o, dict) and "SEC" "RET" in o for o in gc.get_objects()) else "evil-expected"
"""
    attack(program, adding(test))


def test_a_program_in_a_thread_of_its_own_cannot_answer_for_the_function():
    """It answers as it likes, instead of candidate.py: with values, which are judged as any."""
    program = f"""{FRAME}
def answer():
    while True: write(json.loads({RETURNED!r}))
threading.Thread(target=answer, daemon=True).start()
def add(a, b):
    time.sleep(0.2)
    return 0
"""
    attack(program, adding())
