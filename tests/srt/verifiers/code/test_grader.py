"""Grading programs in the background: outcomes, their order, and what is left when grading stops or is killed."""

import os
import subprocess
import sys
import textwrap
import time
from dataclasses import replace

import pytest

from srt.common.errors import UserError
from srt.config_groups import GradingConfig
from srt.contract.records import Problem
from srt.verifiers.code.grader import CodeGrader
from srt.verifiers.code.judge import JudgeConfig
from srt.verifiers.factory import open_grader
from srt.verifiers.math.grader import MathGrader
from srt.verifiers.types import Verdict, VerifierError
from tests.srt.helpers.code_cases import CONFIG, doubling, fenced
from tests.srt.helpers.processes import descendants, still_running

RIGHT, WRONG = fenced("print(2 * int(input()))"), fenced("print(3)")


@pytest.fixture(scope="module")
def grader():
    with CodeGrader(2, CONFIG) as grader:
        yield grader


@pytest.mark.bwrap
def test_outcomes_come_back_with_their_keys(grader):
    items = [(RIGHT, doubling(), "stop"), (WRONG, doubling(), "stop"), (RIGHT, doubling(), "length")] * 3
    outcomes = grader.grade_all(items)
    assert [outcome.correct for outcome in outcomes] == [True, False, False] * 3
    assert outcomes[2] == Verdict(False, "", "cut off by the token limit")
    assert grader.pending == 0 and grader.poll() == []


@pytest.mark.bwrap
def test_a_failure_of_ours_is_not_a_verdict_and_affects_nothing_else(grader):
    broken = Problem("none", "?", "", mode="code")
    outcomes = grader.grade_all([(RIGHT, broken, "stop"), (RIGHT, doubling(), "stop")])
    assert isinstance(outcomes[0], VerifierError) and outcomes[0].kind == "a problem without tests"
    assert outcomes[1].correct


@pytest.mark.bwrap
def test_the_first_failing_test_is_named_although_tests_run_concurrently(grader):
    tests = [{"input": f"{n}\n", "output": "0\n"} for n in range(6)]
    program = "import time\nn = int(input())\ntime.sleep(0.2 * (n == 2))\nprint(int(n in (2, 3)))"
    verdict = grader.grade_all([(fenced(program), Problem("p", "?", "", mode="code", tests=tests), "stop")])[0]
    assert verdict.reason == "test 3 of 6: wrong answer: expected '0', got '1' (token 1)"


@pytest.mark.bwrap
def test_the_tests_of_one_program_run_concurrently(grader):
    if len(os.sched_getaffinity(0)) == 1:
        pytest.skip("one CPU core")
    tests = [{"input": "", "output": "x\n"}] * 2
    program = fenced("import time\ntime.sleep(1)\nprint('x')")
    grader.submit("key", program, Problem("p", "?", "", mode="code", tests=tests), "stop")
    peak, outcomes = 0, []
    while not outcomes:
        peak = max(peak, sum(command.split()[1:] == ["/box/program.py"] for _, command in descendants()))
        outcomes = grader.poll(timeout=0.02)
    assert outcomes[0][1].correct and peak == 2


@pytest.mark.bwrap
def test_surrogates_reach_the_judge(grader):
    response = "\ud83d" + fenced("print('\ud83d'[:0], 2 * int(input()))")
    assert grader.grade_all([(response, doubling(), "stop")])[0].correct


@pytest.mark.bwrap
def test_nothing_keeps_running_when_grading_stops():
    before = descendants()
    with CodeGrader(1, CONFIG) as grader:
        grader.submit("key", fenced("import time\ntime.sleep(100)"), doubling(), "stop")
        deadline = time.monotonic() + 5
        while not any("bwrap" in command for _, command in descendants() - before):
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def left():
        return {command for _, command in descendants() - before if "resource_tracker" not in command}

    deadline = time.monotonic() + 30
    while left() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not left()


@pytest.mark.bwrap
def test_a_parent_that_is_killed_leaves_neither_judge_nor_program(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(
        textwrap.dedent(
            """
            import time
            from srt.verifiers.code.grader import CodeGrader
            from tests.srt.helpers.code_cases import CONFIG, doubling, fenced

            if __name__ == "__main__":
                grader = CodeGrader(1, CONFIG)
                grader.submit("key", fenced("import time\\ntime.sleep(100)  # evil-sleeper"), doubling(), "stop")
                time.sleep(1.5)
                print(grader._process.pid, flush=True)
                time.sleep(600)
            """
        )
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    before = {pid for pid, _ in descendants()}
    parent = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True, env=environment)
    try:
        judge = int(parent.stdout.readline())
        there = {pid for pid, _ in descendants()} - before
    finally:
        parent.kill()
        parent.wait()
        parent.stdout.close()
    assert judge in there and len(there) >= 3  # the parent, the judge, a sandbox
    assert not still_running(there - {parent.pid})


def test_a_missing_sandbox_stops_the_run(set_path):
    set_path("/nowhere")
    with pytest.raises(UserError, match="bubblewrap is not installed; install bubblewrap.*CODE_SANDBOX=rlimits"):
        CodeGrader(1, JudgeConfig("bwrap", 1, 64, 1))


def test_a_sandbox_that_does_not_work_stops_the_run(set_path, tmp_path):
    fake = tmp_path / "bwrap"
    fake.write_text("#!/bin/sh\necho 'bwrap: No permissions to create a new namespace' >&2\nexit 1\n")
    fake.chmod(0o755)
    set_path(f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(UserError, match="does not work here .bwrap: No permissions to create a new namespace"):
        CodeGrader(1, CONFIG)


@pytest.mark.bwrap
def test_the_mode_chooses_the_grader():
    config = GradingConfig("code", 1, 10, "bwrap", 1.0, 64.0, 1.0)
    with open_grader(config) as grader:
        assert isinstance(grader, CodeGrader)
    with open_grader(replace(config, mode="math")) as grader:
        assert isinstance(grader, MathGrader)
