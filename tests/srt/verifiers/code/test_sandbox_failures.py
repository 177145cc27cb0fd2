"""Whether the sandbox failed is told by what no program can write: imitating that escapes no verdict."""

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from srt.contract.records import Problem
from srt.verifiers.code.failures import run_failure
from srt.verifiers.code.languages import PYTHON, installed_roots, toolchain
from srt.verifiers.code.sandbox.limits import Limits
from srt.verifiers.code.sandbox.process import LAUNCHER_KILLED, NOT_STARTED
from srt.verifiers.code.sandbox.sandbox import Sandbox
from srt.verifiers.types import VerifierError
from tests.srt.helpers.attacks import IF_TRUE, attack
from tests.srt.helpers.code_cases import adding, doubling, fenced, judge

pytestmark = pytest.mark.bwrap

LIMITS = Limits(cpu_seconds=2, wall_seconds=60, memory_mb=256, output_bytes=2**20, processes=16)
MESSAGES = [
    ("bwrap: Creating new namespace failed: Resource temporarily unavailable", 1),
    ("bwrap: execvp /bin/sh: No such file or directory", 1),
    ("setpriv: failed to execute python: Cannot allocate memory", 126),
    ("setpriv: setresuid failed: Resource temporarily unavailable", 127),
    ("/bin/sh: 1: Cannot fork", 2),
    ("sh: 0: Cannot fork", 2),
    ("sh: 1: exec: python: not found", 127),
    ("sh: ulimit: error setting limit (Operation not permitted)", 2),
    ("BlockingIOError: [Errno 11] Resource temporarily unavailable", 127),
]


@pytest.mark.parametrize(("message", "code"), MESSAGES)
def test_a_program_that_imitates_a_sandbox_that_fails_is_wrong(message, code):
    program = f"import os\nos.write(2, {message!r}.encode() + b'\\n')\nos._exit({code})"
    assert f"runtime error (exit code {code}): {message[:60]}" in attack(program)


@pytest.mark.parametrize(("message", "code"), MESSAGES[:3])
def test_a_function_that_imitates_a_sandbox_that_fails_is_wrong(message, code):
    act = f"os.write(2, {message!r}.encode() + b'\\n')\nos._exit({code})"
    within = "\n".join(f"    {line}" for line in act.splitlines())
    for program in (f"import os\ndef add(a, b):\n{within}", f"import os\n{act}\ndef add(a, b): pass"):
        verdict = judge().judge(fenced(program), adding())
        assert not verdict.correct and "runtime error" in verdict.reason


def test_no_descriptor_leads_to_the_report_of_the_start():
    program = """
import os
kept = []
for process in ("self", 1):
    for number in range(3, 256):
        try: kept += [os.readlink(f"/proc/{process}/fd/{number}")]
        except OSError: pass
"""
    assert "'held'" in attack(program + IF_TRUE.format("any('pipe' in name for name in kept)"))


def test_a_checker_that_repeats_what_a_program_printed_is_no_sandbox_that_fails():
    checker = """
import sys
output = open(sys.argv[3]).read()
if output != open(sys.argv[2]).read():
    sys.stderr.write(output)
    sys.exit(1)
print(1)
"""
    tests = [{"input": "1\n", "output": "2\n"}]
    problem = Problem("p", "?", "", mode="code", tests=tests, checker=checker)
    for message, _ in MESSAGES[:2]:
        verdict = judge().judge(fenced(f"print({message!r})"), problem)
        assert not verdict.correct and "the problem's checker rejects" in verdict.reason
    assert judge().judge(fenced("print(2)"), problem).correct


def kind_of(action):
    with pytest.raises(VerifierError) as caught:
        action()
    return caught.value.kind


def test_a_sandbox_that_does_not_start_is_our_failure():
    sandbox = Sandbox("bwrap", installed_roots())
    result = sandbox.run(["/bin/true"], {}, b"", LIMITS, roots=[Path("/no/such/folder")])
    assert not result.started and "bwrap: " in result.stderr
    assert kind_of(lambda: run_failure(result, LIMITS)) == NOT_STARTED
    assert sandbox.run(["/bin/true"], {}, b"", LIMITS, roots=()).started


@pytest.mark.parametrize("kind", ["bwrap", "rlimits"])
def test_a_limit_that_cannot_be_set_is_our_failure(kind):
    result = judge(kind).sandbox.run(["/bin/true"], {}, b"", replace(LIMITS, output_bytes=-512), roots=())
    assert not result.started and "ulimit" in result.stderr
    assert kind_of(lambda: run_failure(result, LIMITS)) == NOT_STARTED


def test_a_launcher_that_is_killed_is_our_failure():
    sandbox = Sandbox("bwrap", installed_roots())
    python = toolchain(PYTHON)
    command = [python.executable, "-c", "import time\ntime.sleep(50)"]
    handle = sandbox.start(command, {}, b"", LIMITS, roots=python.roots)
    os.kill(handle._launcher.pid, signal.SIGKILL)
    assert kind_of(handle.wait) == LAUNCHER_KILLED
    assert sandbox.run(["/bin/true"], {}, b"", LIMITS, roots=()).exit_code == 0  # it has a successor


@pytest.mark.parametrize(("number", "words"), [(11, "Segmentation fault"), (15, "Terminated")])
def test_the_reason_names_the_signal(number, words):
    reason = judge().judge(fenced(f"import os\nos.kill(os.getpid(), {number})"), doubling()).reason
    assert f"runtime error (exit code {128 + number}): {words}" in reason
