"""The judging process: small, and with threads that wait for sandboxed programs.

A separate process, because a program is measured from its fork on: forked from a process that holds a model, it
would be charged with the model's memory.
"""

import errno
import os
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection
from typing import NamedTuple, TypeVar

from srt.common.errors import UserError
from srt.contract.records import Problem
from srt.verifiers.base import tie_to_parent
from srt.verifiers.code.canary import Canary, mode_of
from srt.verifiers.code.judge import CodeJudge, JudgeConfig, open_sandbox
from srt.verifiers.code.machine import NO_MEMORY, NO_PROCESSES
from srt.verifiers.code.problem_cache import Message, ProblemReceiver
from srt.verifiers.code.sandbox.sandbox import unshare_network
from srt.verifiers.code.submission import Submission
from srt.verifiers.types import Outcome, VerifierError

Result = TypeVar("Result")
STOPPED = 0  # in the place of a request's number; those begin with 1
NO_RESOURCES = (errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.ENOSPC)


class Request(NamedTuple):
    """A response to be graded. `number` identifies its outcome."""

    number: int
    response: str
    problem: Problem


@dataclass
class RunningSubmission:
    """A submission whose tests are being run, in order, until one fails."""

    request: Request
    submission: Submission
    next_test: int = 0
    num_running: int = 0
    failures: dict[int, str | VerifierError] = field(default_factory=dict)

    @property
    def has_work(self) -> bool:
        return not self.failures and self.next_test < self.submission.num_tests

    @property
    def finished(self) -> bool:
        return not self.has_work and not self.num_running

    def outcome(self) -> Outcome:
        """The first failing test decides. All tests before it were started earlier, so timing does not matter."""
        if not self.failures:
            return self.submission.passed()
        first = min(self.failures)
        failure = self.failures[first]
        return failure if isinstance(failure, VerifierError) else self.submission.failed(first, failure)


class SubmissionScheduler:
    """`num_threads` threads, each of which waits for one sandboxed run at a time.

    A thread stays with its submission while that has tests left, then opens the next request, and when there is
    none helps with another submission's tests: a few programs with many tests keep all CPU cores busy, too.
    `send` gets (number, outcome) pairs, and (STOPPED, UserError) when judging does not work.
    """

    def __init__(self, num_threads: int, judge: CodeJudge, send: Callable[[int, Outcome | UserError], None]):
        self._judge, self._send = judge, send
        self._canary = Canary(judge)
        self._requests: deque[Request] = deque()
        self._running: list[RunningSubmission] = []
        self._changed = threading.Condition()
        for _ in range(num_threads):
            threading.Thread(target=self._work, daemon=True).start()

    def add(self, request: Request) -> None:
        with self._changed:
            self._requests.append(request)
            self._changed.notify()

    def _work(self) -> None:
        current: RunningSubmission | None = None
        while True:
            with self._changed:
                while (job := self._next_job(current)) is None:
                    self._changed.wait()
            current = job()

    def _next_job(self, current: RunningSubmission | None) -> Callable[[], RunningSubmission | None] | None:
        """What a thread does next; it returns the submission to stay with. None: there is nothing to do."""
        if current is None or not current.has_work:
            if self._requests:
                return partial(self._open, self._requests.popleft())
            current = next((running for running in self._running if running.has_work), None)
        if current is None:
            return None
        index = current.next_test
        current.num_running += 1
        current.next_test += 1
        return partial(self._run_test, current, index)

    def _open(self, request: Request) -> RunningSubmission | None:
        try:
            self._canary.check(mode_of(request.response, request.problem))
        except UserError as error:
            self._send(STOPPED, error)
            return None
        opened = _or_verifier_error(lambda: self._judge.open_submission(request.response, request.problem))
        if not isinstance(opened, Submission):
            self._finish(request, opened)
            return None
        running = RunningSubmission(request, opened)
        with self._changed:
            self._running.append(running)
            self._changed.notify_all()
        return running

    def _run_test(self, running: RunningSubmission, index: int) -> RunningSubmission:
        failure = _or_verifier_error(lambda: running.submission.judge_test(index))
        with self._changed:
            running.num_running -= 1
            if failure is not None:
                running.failures[index] = failure
            finished = running.finished
            if finished:
                self._running.remove(running)
        if finished:
            self._finish(running.request, running.outcome())
        return running

    def _finish(self, request: Request, outcome: Outcome) -> None:
        try:
            self._canary.saw(outcome, request.response, request.problem)
        except UserError as error:
            self._send(STOPPED, error)
        else:
            self._send(request.number, outcome)


def _or_verifier_error(work: Callable[[], Result]) -> Result | VerifierError:
    """The result of `work`; any exception becomes a VerifierError, which can be sent to another process."""
    try:
        return work()
    except VerifierError as error:
        return VerifierError(str(error), error.kind)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"[:1000]
        if isinstance(error, OSError) and error.errno in NO_RESOURCES or "can't start new thread" in reason:
            return VerifierError(f"the machine allows no more ({reason})", NO_PROCESSES)
        if isinstance(error, MemoryError) or isinstance(error, OSError) and error.errno == errno.ENOMEM:
            return VerifierError(f"the machine ran out of memory ({reason})", NO_MEMORY)
        return VerifierError(reason)


def serve(connection: Connection, num_threads: int, config: JudgeConfig, parent_pid: int) -> None:
    """Reads Messages, writes (number, outcome) pairs, and exits when the other end of `connection` is closed.

    (STOPPED, UserError) instead of a pair: judging does not work.
    """
    tie_to_parent(parent_pid)
    send_lock = threading.Lock()

    def send(number: int, outcome: Outcome | UserError) -> None:
        with send_lock:
            connection.send((number, outcome))

    sandbox = open_sandbox(config, has_network=not unshare_network())
    scheduler = SubmissionScheduler(num_threads, CodeJudge(config, sandbox), send)
    problems = ProblemReceiver()
    while True:
        try:
            message: Message = connection.recv()
            scheduler.add(Request(message.number, message.response, problems.problem(message)))
        except (EOFError, OSError):
            os._exit(0)  # without waiting for the threads; their programs die with this process
