"""A judge that is mistaken about programs known to be right and wrong stops the run."""

import os
import shutil
import threading
from dataclasses import replace

import pytest

from srt.common.errors import UserError
from srt.verifiers.code import languages
from srt.verifiers.code.canary import FUNCTION, PROGRAMS, SERIES, Canary, failure_of, mode_of
from srt.verifiers.code.grader import CodeGrader
from srt.verifiers.code.judge import CodeJudge
from srt.verifiers.code.judge_process import STOPPED, Request, SubmissionScheduler
from srt.verifiers.types import Verdict, VerifierError
from tests.srt.helpers.code_cases import CONFIG, adding, doubling, fenced, judge

pytestmark = pytest.mark.bwrap


class CountingJudge(CodeJudge):
    """A real judge that can be told to break, as a machine may at any time."""

    def __init__(self):
        super().__init__(CONFIG, judge().sandbox)
        self.num_judged = 0
        self.breaks = False

    def open_submission(self, response, problem):
        self.num_judged += problem.id == "canary"
        if self.breaks:
            return Verdict(False, "x", "test 1 of 1: runtime error (exit code 1): sh: Cannot fork")
        return super().open_submission(response, problem)


@pytest.mark.parametrize("mode", PROGRAMS)
def test_the_programs_of_every_mode_get_the_right_verdicts(mode):
    language = languages.BY_NAME.get(mode, languages.PYTHON)
    if languages.find_toolchain(language) is None:
        pytest.skip(f"no compiler for {mode}")
    Canary(judge()).check(mode)


def test_every_language_has_programs():
    assert set(PROGRAMS) == {*languages.BY_NAME, FUNCTION}


def test_each_mode_is_checked_once_before_its_first_verdict():
    counting = CountingJudge()
    canary = Canary(counting)
    for _ in range(2):
        canary.check("Python")
    assert counting.num_judged == 2
    canary.check(FUNCTION)
    assert counting.num_judged == 4
    counting.breaks = True
    canary.check(None)
    canary.check("Python")
    with pytest.raises(
        UserError, match="judging does not work.*Python program known to be right got.*Cannot fork"
    ):
        canary.check("Python", again=True)


def test_a_judge_that_accepts_everything_is_noticed(monkeypatch):
    monkeypatch.setattr("srt.verifiers.code.program_submission.first_difference", lambda *_: None)
    with pytest.raises(UserError, match="a Python program known to be wrong got: passed 1 of 1 tests"):
        Canary(judge()).check("Python")


def test_a_missing_compiler_is_not_the_judges_mistake(monkeypatch):
    monkeypatch.setattr(languages.shutil, "which", lambda name: None)
    languages.find_toolchain.cache_clear()
    try:
        Canary(judge()).check("Rust")
    finally:
        languages.find_toolchain.cache_clear()


def test_it_runs_again_after_a_series_of_identical_failures():
    counting = CountingJudge()
    canary = Canary(counting)
    wrong = Verdict(False, "x", "test 3 of 9: runtime error (exit code 1): odd")
    right, nothing = Verdict(True, "x", "passed"), Verdict(False, "", "cut off by the token limit")
    response, problem = fenced("print(3)"), doubling()
    for _ in range(2):
        for number in range(SERIES - 1):
            canary.saw(replace(wrong, reason=wrong.reason.replace("3", str(number))), response, problem)
            canary.saw(nothing, "", problem)
        canary.saw(right, response, problem)
    assert counting.num_judged == 0
    for _ in range(SERIES):
        canary.saw(wrong, response, problem)
    assert counting.num_judged == 2
    counting.breaks = True
    error = VerifierError("the sandbox did not start: bwrap", "a sandbox that did not start")
    with pytest.raises(UserError):
        for _ in range(SERIES):
            canary.saw(error, response, problem)


def test_what_identical_failures_have_in_common():
    assert failure_of(Verdict(False, "x", "test 1 of 3: time limit")) == "time limit"
    assert failure_of(VerifierError("of problem 7", "kind")) == "kind"
    assert failure_of(Verdict(True, "x", "")) is None and failure_of(Verdict(False, "", "no code")) == ""
    assert mode_of(fenced("int x;", "cpp"), doubling()) == "C++" and mode_of("", doubling()) is None
    assert mode_of(fenced("x"), adding()) == FUNCTION


def test_the_scheduler_stops_instead_of_giving_verdicts():
    counting = CountingJudge()
    sent, arrived = [], threading.Event()

    def send(number, outcome):
        sent.append((number, outcome))
        arrived.set()

    scheduler = SubmissionScheduler(1, counting, send)
    scheduler.add(Request(1, fenced("print(2 * int(input()))"), doubling()))
    assert arrived.wait(30) and sent[0][0] == 1 and sent[0][1].correct
    counting.breaks = True
    for number in range(SERIES):
        arrived.clear()
        scheduler.add(Request(2 + number, fenced("print(2 * int(input()))"), doubling()))
        assert arrived.wait(30)
    assert [number for number, _ in sent] == [*range(1, SERIES + 1), STOPPED]
    assert isinstance(sent[-1][1], UserError)


def test_a_machine_that_breaks_before_the_first_verdict_stops_the_run(set_path, tmp_path):
    # The sandbox works when it is opened, but starts no program.
    fake = tmp_path / "bwrap"
    fake.write_text(
        "#!/bin/sh\ncase \"$*\" in *program.py*) echo 'bwrap: Creating new namespace failed' >&2; exit 1;; esac\n"
        f'exec {shutil.which("bwrap")} "$@"\n'
    )
    fake.chmod(0o755)
    set_path(f"{tmp_path}:{os.environ['PATH']}")
    with (
        CodeGrader(1, CONFIG) as grader,
        pytest.raises(UserError, match="judging does not work on this machine.*the sandbox did not start"),
    ):
        grader.grade_all([(fenced("print(2 * int(input()))"), doubling(), "stop")])
