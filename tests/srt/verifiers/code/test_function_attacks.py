"""Attacks on tests that call a function, which run in a sandbox of their own."""

import pytest

from tests.srt.helpers.attacks import attack
from tests.srt.helpers.code_cases import adding

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
    ],
)
def test_circumventing_the_tests_of_a_function(program):
    attack(program, adding())


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
