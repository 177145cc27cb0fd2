"""A machine that refuses what a program needs: the program is not wrong."""

import json
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from srt.contract.records import Problem
from srt.verifiers.code import machine
from srt.verifiers.code.extract import extract_program
from srt.verifiers.code.failures import NOT_STARTED
from srt.verifiers.code.judge_process import _or_verifier_error
from srt.verifiers.code.machine import Pressure, check_machine
from srt.verifiers.code.sandbox.limits import Limits
from srt.verifiers.code.submission import Submission
from srt.verifiers.types import VerifierError
from tests.srt.helpers.code_cases import fenced, judge

LIMITS = Limits(cpu_seconds=1, wall_seconds=8, memory_mb=1000, output_bytes=2**20, processes=16)


def kind_of(action):
    with pytest.raises(VerifierError) as caught:
        action()
    return caught.value.kind


# Counters of the kernel ----------------------------------------------------------------------------------


@pytest.fixture
def counters(monkeypatch):
    values = {"before": Pressure(3, 5), "after": Pressure(3, 5)}
    monkeypatch.setattr(machine, "pressure", lambda: values["after"])
    return values


def test_refused_processes_and_kills_for_lack_of_memory(counters):
    def check(failure):
        return check_machine(counters["before"], failure)

    killed = "runtime error (exit code 137): Killed"
    check("wrong answer: 3")
    check(killed)
    counters["after"] = Pressure(3, 6)
    assert kind_of(lambda: check("wrong answer: 3")) == "no processes left"
    check("time limit (2 s of CPU time)")
    counters["after"] = Pressure(4, 5)
    assert kind_of(lambda: check(killed)) == "no memory left"
    assert kind_of(lambda: check("compile error: g++: fatal error: Killed signal terminated")) == "no memory left"
    check("wrong answer: 3")
    check("memory limit (2000 MB used, 1000 MB allowed)")
    counters["before"] = counters["after"] = Pressure(None, 5)  # a machine that does not count
    check(killed)


def test_the_counters_are_read():
    assert machine.pressure().refused_processes >= 0
    if Path("/proc/vmstat").is_file() and "oom_kill " in Path("/proc/vmstat").read_text():
        assert machine.pressure().oom_kills is not None


@pytest.mark.bwrap
def test_a_program_that_somebody_killed_runs_again():
    class Killed(Submission):
        runs: list = []

        def run_test(self, index):
            self.runs.append(index)
            return "runtime error (exit code 137): Killed" if len(self.runs) in (1, 3, 4) else None

    problem = Problem("p", "?", "", mode="code", tests=[{}])
    program = extract_program(fenced("x"))
    submission = Killed(judge().sandbox, program, problem, LIMITS)
    assert submission.judge_test(0) is None and len(submission.runs) == 2
    assert "137" in submission.judge_test(0) and len(submission.runs) == 4  # twice: its own doing


def test_errors_of_the_system_have_a_kind():
    def outcome(error):
        def fail():
            raise error

        return _or_verifier_error(fail).kind

    assert outcome(BlockingIOError(11, "Resource temporarily unavailable")) == "no processes left"
    assert outcome(RuntimeError("can't start new thread")) == "no processes left"
    assert outcome(OSError(12, "Cannot allocate memory")) == outcome(MemoryError()) == "no memory left"
    assert outcome(KeyError("x")) == "the verifier broke"
    assert outcome(VerifierError("x", "kind")) == "kind"


# A real control group ------------------------------------------------------------------------------------

SCRIPT = """
    import json, os, sys, threading
    from dataclasses import replace
    from pathlib import Path
    from srt.verifiers.code.judge import CodeJudge, open_sandbox
    from srt.verifiers.code.judge_process import _or_verifier_error
    from tests.srt.helpers.code_cases import CONFIG, adding, doubling, fenced

    group = Path(sys.argv[1])
    (group / "cgroup.procs").write_text(str(os.getpid()))
    judge = CodeJudge(CONFIG, open_sandbox(CONFIG))
    threads = "import threading\\nfor _ in range(3): threading.Thread(target=print, args=('',)).start()\\n"
    cases = [
        (fenced("print(2 * int(input()))"), replace(doubling(), tests=doubling().tests[:1])),
        (fenced(threads + "print(2 * int(input()))"), replace(doubling(), tests=doubling().tests[:1])),
        (fenced("def add(a, b):\\n    return [n + b for n in a]"), adding()),
    ]
    for room in (0, 1, 2, 3, 4, 5, 6, 7, 8, 60):
        for response, problem in cases:
            (group / "pids.max").write_text(str(int((group / "pids.current").read_text()) + room))
            outcome = _or_verifier_error(lambda: judge.judge(response, problem))
            (group / "pids.max").write_text("max")
            correct = getattr(outcome, "correct", None)
            print(json.dumps([room, correct, getattr(outcome, "kind", ""), str(outcome)]), flush=True)
    os._exit(0)
"""


def remove_group(folder):
    """With the groups in it of a judge that has ended, whose last processes may still be ending."""
    deadline = time.monotonic() + 30
    for group in (*folder.glob("srt-judge-*"), folder):
        while group.is_dir():
            try:
                group.rmdir()
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)


@pytest.fixture
def group():
    for root in (Path("/sys/fs/cgroup/pids"), Path("/sys/fs/cgroup")):
        folder = root / f"srt-test-{os.getpid()}"
        try:
            folder.mkdir()
        except OSError:
            continue
        if (folder / "pids.max").exists():
            yield folder
            remove_group(folder)
            return
        folder.rmdir()
    pytest.skip("no control group can be made here")


@pytest.mark.bwrap
def test_no_program_is_wrong_because_the_machine_has_no_processes_left(group, tmp_path):
    script = tmp_path / "judging.py"
    script.write_text(textwrap.dedent(SCRIPT))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, script, group]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    outcomes = [json.loads(line) for line in result.stdout.splitlines()]
    assert len(outcomes) == 30, result.stderr
    assert [outcome for outcome in outcomes if outcome[1] is False] == []
    assert all(correct for room, correct, *_ in outcomes if room == 60), outcomes
    assert {kind for room, _, kind, _ in outcomes if room == 0} <= {"no processes left", NOT_STARTED}
