"""Grading of programs in the background: one small process of ours, whose threads wait for sandboxed programs.

A process of its own, because a program is measured from its fork on: forked from a process that holds a model, it
would count the model's memory as its own.
"""

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection

from srt.common.errors import UserError
from srt.contract.records import Problem
from srt.verifiers.code.judge import CodeJudge, JudgeConfig, Trial
from srt.verifiers.code.languages import installed_roots
from srt.verifiers.code.sandbox import Sandbox, leave_network
from srt.verifiers.types import Outcome, Verdict, VerifierError

Item = tuple[int, str, Problem]  # number, response, problem


class CodeGrader:
    """Grades programs; used like srt.verifiers.math.grader.Grader.

    `workers` programs run at the same time, at most as many as there are processors. Raises UserError when the
    sandbox does not work on this machine.
    """

    def __init__(self, workers: int, settings: JudgeConfig):
        check_sandbox(settings)
        cores = len(os.sched_getaffinity(0))
        if workers > cores:
            print(f"GRADING_WORKERS: {cores} programs at the same time, not {workers}: one for each processor")
        self._ready: list[tuple[Hashable, Outcome]] = []
        self._keys: dict[int, Hashable] = {}
        self._count = 0
        context = multiprocessing.get_context("spawn")  # a fork of a process that runs threads may hang
        self._connection, theirs = context.Pipe()
        arguments = (theirs, min(workers, cores), settings, os.getpid())
        self._process = context.Process(target=_serve, args=arguments, daemon=True)
        self._process.start()
        theirs.close()

    def __enter__(self) -> "CodeGrader":
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()  # which ends the process, and with it every program
        self._process.join(timeout=5)
        self._process.kill()
        self._process.join()

    @property
    def pending(self) -> int:
        """Responses submitted whose outcome poll() has not returned yet."""
        return len(self._keys) + len(self._ready)

    def submit(self, key: Hashable, response: str, problem: Problem, finish_reason: str) -> None:
        """Queue a response. One that the token limit cut off ("length") is wrong without being graded."""
        if finish_reason == "length":
            self._ready.append((key, Verdict(False, "", "cut off by the token limit")))
            return
        self._count += 1
        self._keys[self._count] = key
        self._talk(lambda: self._connection.send((self._count, response, problem)))

    def poll(self, timeout: float = 0.0) -> list[tuple[Hashable, Outcome]]:
        """All outcomes since the last call; waits up to `timeout` seconds when there is none.

        Raises VerifierError when the judging process died.
        """
        outcomes, self._ready = self._ready, []
        while self._keys and self._talk(lambda: self._connection.poll(0.0 if outcomes else timeout)):
            number, outcome = self._talk(self._connection.recv)
            outcomes.append((self._keys.pop(number), outcome))
        return outcomes

    def grade_all(self, items: list[tuple[str, Problem, str]]) -> list[Outcome]:
        """The outcomes of (response, problem, finish_reason) items, in their order."""
        if self.pending:
            raise ValueError(f"grade_all: {self.pending} submitted responses are still to be polled")
        for index, item in enumerate(items):
            self.submit(index, *item)
        outcomes: dict[Hashable, Outcome] = {}
        while self.pending:
            outcomes.update(self.poll(timeout=1.0))
        return [outcomes[index] for index in range(len(items))]

    def _talk(self, say):
        try:
            return say()
        except (EOFError, OSError) as error:
            self._process.join(timeout=5)
            raise VerifierError(f"the judging process died (exit code {self._process.exitcode})") from error


def check_sandbox(settings: JudgeConfig) -> Sandbox:
    """Raises UserError, with what to install, when programs cannot be judged on this machine."""
    if sys.platform != "linux":
        raise UserError("MODE=code: programs are judged on Linux only, where they can be shut in")
    return Sandbox(settings.sandbox, installed_roots())


@dataclass
class _OnTrial:
    """A program whose tests are being run, in their order, until one fails."""

    number: int
    trial: Trial
    next_test: int = 0
    running: int = 0
    failures: dict[int, str | VerifierError] = field(default_factory=dict)

    @property
    def has_work(self) -> bool:
        return not self.failures and self.next_test < self.trial.tests

    @property
    def finished(self) -> bool:
        return not self.has_work and not self.running

    def outcome(self) -> Outcome:
        """The first failure decides: tests before it were all started earlier, so nothing depends on timing."""
        if not self.failures:
            return self.trial.verdict()
        first = min(self.failures)
        failure = self.failures[first]
        return failure if isinstance(failure, VerifierError) else self.trial.verdict(first, failure)


class _Threads:
    """`count` threads, each with one sandbox at a time.

    A thread stays with its program while that has tests left, then takes a new program, and helps with another's
    tests when there is none: few programs with many tests keep all processors busy too.
    """

    def __init__(self, count: int, judge: CodeJudge, answer):
        self._judge, self._answer = judge, answer
        self._new: deque[Item] = deque()
        self._trials: list[_OnTrial] = []
        self._changed = threading.Condition()
        for _ in range(count):
            threading.Thread(target=self._work, daemon=True).start()

    def add(self, item: Item) -> None:
        with self._changed:
            self._new.append(item)
            self._changed.notify()

    def _work(self) -> None:
        mine: _OnTrial | None = None
        while True:
            with self._changed:
                while (job := self._next_job(mine)) is None:
                    self._changed.wait()
            if isinstance(job, tuple):
                mine = self._open(job)
            else:
                mine, test = job.on_trial, job.test
                self._run(mine, test)

    def _next_job(self, mine: "_OnTrial | None") -> "Item | _Test | None":
        if mine is None or not mine.has_work:
            if self._new:
                return self._new.popleft()
            mine = next((one for one in self._trials if one.has_work), None)
        if mine is None:
            return None
        mine.running += 1
        mine.next_test += 1
        return _Test(mine, mine.next_test - 1)

    def _open(self, item: Item) -> "_OnTrial | None":
        number, response, problem = item
        opened = _outcome_of(lambda: self._judge.open_trial(response, problem))
        if not isinstance(opened, Trial):
            self._answer(number, opened)
            return None
        on_trial = _OnTrial(number, opened)
        with self._changed:
            self._trials.append(on_trial)
            self._changed.notify_all()
        return on_trial

    def _run(self, on_trial: _OnTrial, test: int) -> None:
        failure = _outcome_of(lambda: on_trial.trial.run_test(test))
        with self._changed:
            on_trial.running -= 1
            if failure is not None:
                on_trial.failures[test] = failure
            finished = on_trial.finished
            if finished:
                self._trials.remove(on_trial)
        if finished:
            self._answer(on_trial.number, on_trial.outcome())


@dataclass(frozen=True)
class _Test:
    on_trial: _OnTrial
    test: int


def _outcome_of(work):
    """What `work` gives; an error of ours becomes a VerifierError that survives the way to the other process."""
    try:
        return work()
    except VerifierError as error:
        return VerifierError(str(error), error.kind)
    except Exception as error:
        return VerifierError(f"{type(error).__name__}: {error}"[:1000])


def _serve(connection: Connection, workers: int, settings: JudgeConfig, parent_pid: int) -> None:
    """The judging process: reads items, answers with outcomes, ends when the other side is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    parent_death_signal = 1  # PR_SET_PDEATHSIG: no judge outlives a parent that is killed
    ctypes.CDLL(None).prctl(parent_death_signal, signal.SIGKILL)
    if os.getppid() != parent_pid:  # it died before the line above
        os._exit(1)
    one_at_a_time = threading.Lock()

    def answer(number: int, outcome: Outcome) -> None:
        with one_at_a_time:
            connection.send((number, outcome))

    sandbox = Sandbox(settings.sandbox, installed_roots(), has_network=not leave_network())
    threads = _Threads(workers, CodeJudge(settings, sandbox), answer)
    while True:
        try:
            threads.add(connection.recv())
        except (EOFError, OSError):
            os._exit(0)  # without waiting for the threads; their programs die with them
