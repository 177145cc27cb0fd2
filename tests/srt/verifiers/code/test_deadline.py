"""Work on long untrusted text: in a process of its own, which is killed at a limit."""

import os
import pickle
import signal
import subprocess
import sys
import time

import pytest

from srt.contract.records import Problem
from srt.verifiers.code import deadline
from srt.verifiers.code.canary import mode_of
from srt.verifiers.code.compare import first_difference
from srt.verifiers.code.deadline import INLINE_BYTES, TOO_LONG, TOO_MUCH, bounded
from srt.verifiers.code.extract import extract_program
from srt.verifiers.code.java_source import java_file_name
from srt.verifiers.code.languages import BY_NAME, PYTHON
from srt.verifiers.types import VerifierError
from tests.srt.helpers.code_cases import doubling, fenced, judge
from tests.srt.helpers.processes import descendants, still_running

# As many numbers as an output may hold, each written differently: comparing them takes minutes.
SLOW = b"1.000 " * (5 * 2**20), b"1.0 " * (5 * 2**20)
SLOW_RESPONSE = "```\n" * (4 * 2**20)


def own_pid(_text):
    return os.getpid()


def fail(_text):
    raise ValueError("no such thing")


@pytest.mark.parametrize("length", [0, INLINE_BYTES])
def test_results_do_not_depend_on_where_the_work_is_done(length):
    assert bounded(first_difference, b"1 2\n" + b" " * length, b"1  2") is None
    assert "got '3'" in bounded(first_difference, b"1 3\n" + b" " * length, b"1  2")
    program = bounded(extract_program, fenced("print(2)") + "\ud800" + "x" * length)
    assert program.source == "print(2)\n"
    assert program.language is PYTHON
    assert bounded(java_file_name, "public class Sol {}" + "/" * length) == "Sol.java"


def test_only_long_text_is_worth_a_process():
    assert bounded(own_pid, b"x" * INLINE_BYTES) == os.getpid()
    assert bounded(own_pid, b"x" * (INLINE_BYTES + 1)) != os.getpid()


def test_a_slow_comparison_is_killed_at_its_limit_of_processor_time(monkeypatch):
    monkeypatch.setattr(deadline, "CPU_SECONDS", 1)
    before = descendants()
    with pytest.raises(VerifierError, match="first_difference of .* no result within 1 s") as raised:
        bounded(first_difference, *SLOW)
    assert raised.value.kind == TOO_LONG
    assert descendants() <= before


def test_a_comparison_that_does_not_end_is_killed(monkeypatch):
    monkeypatch.setattr(deadline, "WAIT_SECONDS", 0.5)
    with pytest.raises(VerifierError, match="no result within 0.5 s") as raised:
        bounded(first_difference, *SLOW)
    assert raised.value.kind == TOO_LONG


def test_memory_has_a_limit(monkeypatch):
    monkeypatch.setattr(deadline, "MEMORY_BYTES", 2**25)
    with pytest.raises(VerifierError, match="out of memory") as raised:
        bounded(first_difference, *SLOW)
    assert raised.value.kind == TOO_MUCH


def test_failures_of_the_process_are_reported():
    with pytest.raises(VerifierError, match="ValueError: no such thing"):
        bounded(fail, b"x" * (INLINE_BYTES + 1))


def test_its_process_dies_with_ours():
    script = (
        "from tests.srt.verifiers.code.test_deadline import SLOW\n"
        "from srt.verifiers.code.compare import first_difference\n"
        "from srt.verifiers.code.deadline import bounded\n"
        "print(flush=True)\n"
        "bounded(first_difference, *SLOW)\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, env=environment) as parent:
        parent.stdout.readline()
        children = f"/proc/{parent.pid}/task/{parent.pid}/children"
        wait_for(lambda: open(children).read().split())
        (child,) = open(children).read().split()
        parent.send_signal(signal.SIGKILL)
    assert not still_running({int(child)})


def wait_for(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_program_whose_output_is_slow_to_compare_is_set_aside(monkeypatch):
    monkeypatch.setattr(deadline, "CPU_SECONDS", 1)
    problem = Problem("ones", "?", "", mode="code", tests=[{"input": "", "output": SLOW[1].decode()}])
    with pytest.raises(VerifierError) as raised:
        judge().judge(fenced("print('1.000 ' * (5 * 2**20))"), problem)
    assert raised.value.kind == TOO_LONG
    assert not judge().judge(fenced("print('1.000 ' * 5)"), problem).correct
    assert judge().judge(fenced("print('1.0\\n' * (5 * 2**20))"), problem).correct


def test_a_response_in_which_the_program_is_slow_to_find_is_set_aside(monkeypatch):
    monkeypatch.setattr(deadline, "CPU_SECONDS", 1)
    assert mode_of(SLOW_RESPONSE, doubling()) is None
    with pytest.raises(VerifierError) as raised:
        judge().judge(SLOW_RESPONSE, doubling())
    assert raised.value.kind == TOO_LONG


def test_languages_are_the_same_in_every_process():
    assert all(pickle.loads(pickle.dumps(language)) is language for language in BY_NAME.values())
