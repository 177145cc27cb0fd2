"""The pool of grading workers: responses whose grading hangs or dies are set aside, the rest are graded."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from srt.common.errors import UserError
from srt.contract.records import Problem
from srt.verifiers.math.grader import MathGrader
from srt.verifiers.types import Verdict, VerifierError
from tests.srt.helpers.processes import still_running


def problem(answer: str = "7", mode: str = "math") -> Problem:
    return Problem(id="p", x="?", answer=answer, mode=mode)


def act(response: str, problem: Problem) -> Verdict:
    """A verifier that does what the response tells it to; workers import it from here."""
    if response == "hang":
        time.sleep(3600)
    if response.startswith("wait for "):
        while not Path(response.removeprefix("wait for ")).exists():
            time.sleep(0.01)
        response = problem.answer
    if response == "hang and ignore signals":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while True:
            pass
    if response == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if response == "exit":
        os._exit(3)
    if response.startswith("exit unless there is "):
        mark = Path(response.removeprefix("exit unless there is "))
        if not mark.exists():
            mark.touch()
            os._exit(3)
    if response == "allocate":
        bytearray(64 * 2**30)
    if response == "raise":
        raise KeyError("an unforeseen error")
    return Verdict(response == problem.answer, response, str(os.getpid()))


class Unloadable:
    """A verifier that no worker can load."""

    def __call__(self, response: str, problem: Problem) -> Verdict:
        raise NotImplementedError

    def __reduce__(self):
        return (int, ("not a number",))


@pytest.fixture(scope="module")
def acting():
    with MathGrader(2, time_limit_seconds=3.0, verifiers={"math": act}) as grader:
        grader.grade_all([("7", problem(), "stop")] * 4)
        yield grader


@pytest.fixture(scope="module")
def patient():
    """With a limit that no comparison reaches on a busy machine."""
    with MathGrader(2, time_limit_seconds=600, verifiers={"math": act}) as grader:
        grader.grade_all([("7", problem(), "stop")] * 4)
        yield grader


@pytest.mark.parametrize(
    ("response", "reason"),
    [
        ("hang", "no verdict within 3 s"),
        ("hang and ignore signals", "no verdict within 3 s"),
        ("die", "died"),
        ("exit", "died"),
        ("allocate", "MemoryError"),
        ("raise", "an unforeseen error"),
    ],
)
def test_a_broken_comparison_is_set_aside_and_the_others_are_graded(acting, response, reason):
    texts = ["7", "8", response, *("7" for _ in range(20)), response, "8"]
    started = time.monotonic()
    outcomes = acting.grade_all([(text, problem(), "stop") for text in texts])
    assert time.monotonic() - started < 300  # "hang" sleeps for an hour
    for text, outcome in zip(texts, outcomes, strict=True):
        if text == response:
            assert isinstance(outcome, VerifierError) and reason in str(outcome)
        else:
            assert isinstance(outcome, Verdict) and outcome.correct == (text == "7"), outcome
    assert acting.pending == 0
    assert acting.grade_all([("7", problem(), "stop")])[0].correct  # the pool is healthy


def test_a_response_whose_worker_died_is_graded_again(patient, tmp_path):
    """Another response may have killed it."""
    (outcome,) = patient.grade_all([(f"exit unless there is {tmp_path / 'mark'}", problem(), "stop")])
    assert isinstance(outcome, Verdict), outcome


def test_a_worker_that_dies_between_two_tasks(patient):
    for _ in range(2):
        verdicts = patient.grade_all([("7", problem(), "stop")] * 20)
        for worker in {int(verdict.reason) for verdict in verdicts}:
            os.kill(worker, signal.SIGKILL)
        time.sleep(0.5)
        assert all(v.correct for v in patient.grade_all([("7", problem(), "stop")] * 20))


def test_workers_that_never_grade_anything_are_an_error_not_an_endless_loop():
    with MathGrader(1, 5.0, verifiers={"math": Unloadable()}) as grader:
        grader.submit("key", "7", problem(), "stop")
        with pytest.raises(VerifierError, match="workers died"):
            for _ in range(100):
                grader.poll(timeout=1.0)


def test_grading_of_math_and_its_order():
    items = [(f"\\boxed{{{n}}}", problem(str(n - n % 3)), "stop") for n in range(60)]
    with MathGrader(2, time_limit_seconds=10) as grader:
        outcomes = grader.grade_all(items)
        assert [outcome.correct for outcome in outcomes] == [n % 3 == 0 for n in range(60)]
        assert [outcome.extracted for outcome in outcomes] == [str(n) for n in range(60)]

        bad_text, bad_gold = ("\\boxed{7\ud800}", problem(), "stop"), ("\\boxed{5}", problem(""), "stop")
        broken = grader.grade_all([bad_text, bad_gold])
        assert broken[0] == Verdict(False, "7\ufffd", "unreadable response")
        assert isinstance(broken[1], VerifierError) and "gold" in str(broken[1])


def test_submit_does_not_block_and_poll_returns_each_outcome_once(tmp_path):
    """The only worker waits until everything is submitted; if submit waited for it, neither would go on."""
    go = tmp_path / "go"
    with MathGrader(1, time_limit_seconds=600, verifiers={"math": act}) as grader:
        assert grader.poll() == []
        grader.submit(0, f"wait for {go}", problem("8"), "stop")
        for index in range(1, 1000):
            grader.submit(index, "7" if index % 2 else "8", problem(), "stop")
        assert grader.pending == 1000
        with pytest.raises(ValueError, match="1000 submitted"):
            grader.grade_all([])
        assert grader.poll() == []
        go.touch()
        outcomes = []
        while grader.pending:
            outcomes += grader.poll(timeout=1.0)
        assert sorted(key for key, _ in outcomes) == list(range(1000))
        assert all(outcome.correct == (key == 0 or bool(key % 2)) for key, outcome in outcomes)
        started = time.monotonic()
        assert grader.poll(timeout=600.0) == []  # nothing is being graded: no wait
        assert time.monotonic() - started < 300


def test_poll_waits_as_long_as_its_timeout_and_not_for_the_outcome(tmp_path):
    go = tmp_path / "go"
    with MathGrader(1, time_limit_seconds=600, verifiers={"math": act}) as grader:
        grader.submit("slow", f"wait for {go}", problem(), "stop")
        started = time.monotonic()
        assert grader.poll(timeout=0.2) == []  # the outcome cannot be there before there is `go`
        assert time.monotonic() - started > 0.15
        go.touch()
        ((key, verdict),) = grader.poll(timeout=300.0)
        assert key == "slow" and verdict.correct


def test_a_truncated_response_is_incorrect_without_being_graded(acting):
    acting.submit("key", "hang", problem(), "length")
    assert acting.pending == 1
    assert acting.poll() == [("key", Verdict(False, "", "cut off by the token limit"))]


def test_a_mode_without_a_verifier_is_rejected(acting):
    for kind in (ValueError, UserError):
        with pytest.raises(kind, match="MODE=poetry: this grader's modes are "):
            acting.submit("key", "7", problem(mode="poetry"), "stop")
    assert acting.pending == 0


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux only")
def test_workers_die_with_a_parent_that_is_killed(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(
        textwrap.dedent(
            """
            import multiprocessing, time
            from srt.contract.records import Problem
            from srt.verifiers.math.grader import MathGrader

            if __name__ == "__main__":
                with MathGrader(1, 10.0) as grader:
                    grader.grade_all([("\\\\boxed{7}", Problem("p", "?", "7"), "stop")])
                    print(*[p.pid for p in multiprocessing.active_children()], flush=True)
                    time.sleep(600)
            """
        )
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, str(script)]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        workers = [int(pid) for pid in parent.stdout.readline().split()]
    finally:
        parent.kill()
        parent.wait()
        parent.stdout.close()
    assert workers
    assert not still_running(workers)
