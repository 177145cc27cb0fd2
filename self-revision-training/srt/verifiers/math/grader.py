"""Grades math in worker processes, which are killed when a comparison hangs."""

import importlib
import multiprocessing
import os
import queue
import re
import resource
import sys
import time
import warnings
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from typing import Any, NamedTuple

from pebble import ProcessExpired, ProcessPool

from srt.common.errors import UserError
from srt.contract.records import Problem
from srt.verifiers.base import BackgroundGrader, tie_to_parent
from srt.verifiers.types import Outcome, Verdict, VerifierError

MEMORY_BYTES_PER_WORKER = 4 * 2**30  # address space, on top of what a worker has when it starts
TASKS_PER_WORKER = 20_000  # then it is replaced, because sympy's caches grow
MAX_RESTARTS_WITHOUT_OUTCOME = 3
SURROGATES = re.compile("[\ud800-\udfff]")

Verify = Callable[[str, Problem], Verdict]


class UnsupportedModeError(UserError, ValueError):
    """The grader has no verifier for a problem's mode."""


def _verify_math(response: str, problem: Problem) -> Verdict:
    return importlib.import_module("srt.verifiers.math.verify").verify_math(response, problem.answer)


VERIFIERS: dict[str, Verify] = {"math": _verify_math}


class _Task(NamedTuple):
    key: Hashable
    verify: Verify
    response: str
    problem: Problem


class MathGrader(BackgroundGrader):
    """Grades responses in the background.

        with MathGrader(num_workers=2, time_limit_seconds=10) as grader:
            grader.submit(key, response, problem, finish_reason)
            for key, outcome in grader.poll(): ...

    An outcome is a Verdict, or a VerifierError when the comparison hung, crashed (twice) or failed; other
    comparisons are not affected. `verifiers` maps a problem's mode to a function that workers can import. A task
    is a single response, so that a hang affects nothing else. This costs the parent about 0.3 ms per task: at
    most 2000 verdicts/s, regardless of the number of workers.
    """

    def __init__(self, num_workers: int, time_limit_seconds: float, verifiers: dict[str, Verify] = VERIFIERS):
        super().__init__()
        self.num_workers = num_workers
        self.time_limit_seconds = time_limit_seconds
        self.verifiers = verifiers
        self._running: dict[Future[Outcome], _Task] = {}
        self._retried: set[Hashable] = set()  # keys of tasks that are running for the second time
        self._done: queue.SimpleQueue[Future[Outcome]] = queue.SimpleQueue()
        self._restarts = 0
        self._pool = self._new_pool()

    def close(self) -> None:
        self._pool.stop()
        self._pool.join()

    def submit(self, key: Hashable, response: str, problem: Problem, finish_reason: str) -> None:
        """See BackgroundGrader. Raises UnsupportedModeError when there is no verifier for the problem's mode."""
        if problem.mode not in self.verifiers:
            raise UnsupportedModeError(f"MODE={problem.mode}: this grader's modes are {', '.join(self.verifiers)}")
        super().submit(key, response, problem, finish_reason)

    def _num_in_flight(self) -> int:
        return len(self._running)

    def _send(self, key: Hashable, response: str, problem: Problem) -> None:
        # Lone surrogates cannot be sent to a worker; U+FFFD is what decoders emit for broken bytes.
        sendable = SURROGATES.sub("\ufffd", response)
        self._schedule(_Task(key, self.verifiers[problem.mode], sendable, problem))

    def _collect(self, timeout: float) -> list[tuple[Hashable, Outcome]]:
        """Raises VerifierError when the workers die again and again before grading anything."""
        if self._running and not self._pool.active:
            self._restart()
        outcomes = []
        deadline = time.monotonic() + timeout
        while self._running:
            wait_seconds = 0.0 if outcomes else max(0.0, deadline - time.monotonic())
            try:
                future = self._done.get(block=wait_seconds > 0, timeout=wait_seconds or None)
            except queue.Empty:
                break
            if future not in self._running:  # it belongs to a broken pool; its task was scheduled again
                continue
            error = future.exception()
            if isinstance(error, BrokenProcessPool):
                self._restart()
                continue
            task = self._running.pop(future)
            self._restarts = 0
            if isinstance(error, ProcessExpired) and task.key not in self._retried:
                # Pebble also raises this for the previous task, if the worker died before its result was read.
                self._retried.add(task.key)
                self._schedule(task)
                continue
            self._retried.discard(task.key)
            outcomes.append((task.key, self._outcome(future)))
        return outcomes

    def _schedule(self, task: _Task) -> None:
        if not self._pool.active:
            self._restart()
        work = (task.verify, task.response, task.problem)
        future = self._pool.schedule(_grade, args=work, timeout=self.time_limit_seconds)
        self._running[future] = task
        future.add_done_callback(self._done.put)

    def _outcome(self, future: Future[Outcome]) -> Outcome:
        error = future.exception()
        if error is None:
            return future.result()
        if isinstance(error, TimeoutError):
            return VerifierError(f"no verdict within {self.time_limit_seconds:g} s", "no verdict within the limit")
        if isinstance(error, ProcessExpired):
            exit_code = getattr(error, "exitcode", None)
            return VerifierError(f"the worker died (exit code {exit_code})", "a grading worker died")
        return VerifierError(f"{type(error).__name__}: {error}")

    def _new_pool(self) -> ProcessPool:
        # Forking a process that has threads or uses a GPU may hang. Any: pebble's type hint rejects this context.
        context: Any = multiprocessing.get_context("spawn")
        return ProcessPool(
            max_workers=self.num_workers,
            max_tasks=TASKS_PER_WORKER,
            initializer=_start_worker,
            initargs=(os.getpid(), "math" in self.verifiers and self.verifiers["math"] is _verify_math),
            context=context,
        )

    def _restart(self) -> None:
        """A worker that dies between two tasks breaks pebble's pool: ungraded tasks move to a new one."""
        self._restarts += 1
        if self._restarts > MAX_RESTARTS_WITHOUT_OUTCOME:
            raise VerifierError(
                f"the grading workers died {self._restarts} times before grading anything; "
                "see their own messages above"
            )
        self._pool.stop()
        self._pool.join()
        self._pool = self._new_pool()
        tasks, self._running = list(self._running.values()), {}
        for task in tasks:
            self._schedule(task)


def _start_worker(parent_pid: int, grades_math: bool) -> None:
    """Imports what the worker needs, so that no verdict's time is spent on it, and limits its memory."""
    tie_to_parent(parent_pid)
    warnings.simplefilter("ignore")
    if grades_math:
        importlib.import_module("srt.verifiers.math.verify")
    if sys.platform != "linux":
        return
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[0])
    limit = pages * resource.getpagesize() + MEMORY_BYTES_PER_WORKER
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _grade(verify: Verify, response: str, problem: Problem) -> Outcome:
    """Runs in a worker. Errors become outcomes here, because not every exception can be sent to the parent."""
    try:
        return verify(response, problem)
    except VerifierError as error:
        return VerifierError(str(error), error.kind)
    except Exception as error:
        return VerifierError(f"{type(error).__name__}: {error}"[:1000])
