"""Grading in worker processes that are killed when a comparison hangs."""

import ctypes
import importlib
import multiprocessing
import os
import queue
import re
import resource
import signal
import sys
import time
import warnings
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool

from pebble import ProcessExpired, ProcessPool

from srt.common.errors import UserError
from srt.contract.records import Problem
from srt.verifiers.types import Outcome, Verdict, VerifierError

MEMORY_BYTES_PER_WORKER = 4 * 2**30  # address space, on top of what a worker holds when it starts
TASKS_PER_WORKER = 20_000  # then a fresh one takes over: sympy's caches grow
MAX_RESTARTS_WITHOUT_OUTCOME = 3
SURROGATES = re.compile("[\ud800-\udfff]")

Verify = Callable[[str, Problem], Verdict]


class UnsupportedModeError(UserError, ValueError):
    """A problem whose mode has no verifier."""


def _verify_math(response: str, problem: Problem) -> Verdict:
    return importlib.import_module("srt.verifiers.math.verify").verify_math(response, problem.answer)


VERIFIERS: dict[str, Verify] = {"math": _verify_math}


class MathGrader:
    """Grades responses in the background.

        with Grader(num_workers=2, time_limit_seconds=10) as grader:
            grader.submit(key, response, problem, finish_reason)
            for key, outcome in grader.poll(): ...

    An outcome is a Verdict, or a VerifierError when the comparison hung, crashed (twice) or failed; the other
    comparisons are not affected. `verifiers` maps a problem's mode to a function that workers can import.
    One task holds one response, so that a hang takes nothing else with it. That costs about 0.3 ms of the
    parent's time a task: 2000 verdicts/s at most, however many the workers.
    """

    def __init__(self, num_workers: int, time_limit_seconds: float, verifiers: dict[str, Verify] = VERIFIERS):
        self.num_workers = num_workers
        self.time_limit_seconds = time_limit_seconds
        self.verifiers = verifiers
        self._ready: list[tuple[Hashable, Outcome]] = []
        self._running: dict[Future, tuple[Hashable, Verify, str, Problem]] = {}
        self._again: set[Hashable] = set()  # keys of those that are graded a second time
        self._done: queue.SimpleQueue[Future] = queue.SimpleQueue()
        self._restarts = 0
        self._pool = self._new_pool()

    def __enter__(self) -> "MathGrader":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.stop()
        self._pool.join()

    @property
    def pending(self) -> int:
        """Responses submitted whose outcome poll() has not returned yet."""
        return len(self._running) + len(self._ready)

    def submit(self, key: Hashable, response: str, problem: Problem, finish_reason: str) -> None:
        """Queue a response. One that the token limit cut off ("length") is wrong without being graded.

        Raises UnsupportedModeError (a ValueError) when there is no verifier for the problem's mode.
        """
        if problem.mode not in self.verifiers:
            raise UnsupportedModeError(f"MODE={problem.mode}: this grader's modes are {', '.join(self.verifiers)}")
        if finish_reason == "length":
            self._ready.append((key, Verdict(False, "", "cut off by the token limit")))
            return
        # Lone surrogates cannot be sent to a worker; U+FFFD is what decoders put for broken bytes.
        sendable = SURROGATES.sub("\ufffd", response)
        self._schedule((key, self.verifiers[problem.mode], sendable, problem))

    def poll(self, timeout: float = 0.0) -> list[tuple[Hashable, Outcome]]:
        """All outcomes since the last call; waits up to `timeout` seconds when there is none.

        Raises VerifierError when the workers die again and again before they grade anything.
        """
        if self._running and not self._pool.active:
            self._restart()
        outcomes, self._ready = self._ready, []
        deadline = time.monotonic() + timeout
        while self._running:
            wait_seconds = 0.0 if outcomes else max(0.0, deadline - time.monotonic())
            try:
                future = self._done.get(block=wait_seconds > 0, timeout=wait_seconds or None)
            except queue.Empty:
                break
            if future not in self._running:  # of a pool that broke; its task was submitted again
                continue
            if isinstance(future.exception(), BrokenProcessPool):
                self._restart()
                continue
            task = self._running.pop(future)
            self._restarts = 0
            key = task[0]
            if isinstance(future.exception(), ProcessExpired) and key not in self._again:
                # Pebble also says it of the task before, whose result it had not read when the worker was gone.
                self._again.add(key)
                self._schedule(task)
                continue
            self._again.discard(key)
            outcomes.append((key, self._outcome(future)))
        return outcomes

    def grade_all(self, items: list[tuple[str, Problem, str]]) -> list[Outcome]:
        """The outcomes of (response, problem, finish_reason) items, in their order.

        Not to be mixed with submit: it takes every outcome there is.
        """
        if self.pending:
            raise ValueError(f"grade_all: {self.pending} submitted responses are still to be polled")
        for index, (response, problem, finish_reason) in enumerate(items):
            self.submit(index, response, problem, finish_reason)
        outcomes: dict[Hashable, Outcome] = {}
        while self.pending:
            outcomes.update(self.poll(timeout=1.0))
        return [outcomes[index] for index in range(len(items))]

    def _schedule(self, task: tuple[Hashable, Verify, str, Problem]) -> None:
        _, verify, response, problem = task
        if not self._pool.active:
            self._restart()
        work = (verify, response, problem)
        future = self._pool.schedule(_grade, args=work, timeout=self.time_limit_seconds)
        self._running[future] = task
        future.add_done_callback(self._done.put)

    def _outcome(self, future: Future) -> Outcome:
        error = future.exception()
        if error is None:
            return future.result()
        if isinstance(error, TimeoutError):
            return VerifierError(f"no verdict within {self.time_limit_seconds:g} s", "no verdict within the limit")
        if isinstance(error, ProcessExpired):
            return VerifierError(f"the worker died (exit code {error.exitcode})", "a grading worker died")
        return VerifierError(f"{type(error).__name__}: {error}")

    def _new_pool(self) -> ProcessPool:
        return ProcessPool(
            max_workers=self.num_workers,
            max_tasks=TASKS_PER_WORKER,
            initializer=_start_worker,
            initargs=(os.getpid(), "math" in self.verifiers and self.verifiers["math"] is _verify_math),
            # spawn: a fork of a process that runs threads or holds a GPU may hang.
            context=multiprocessing.get_context("spawn"),
        )

    def _restart(self) -> None:
        """A worker that dies between two tasks breaks pebble's pool: what is not graded goes to a new one."""
        self._restarts += 1
        if self._restarts > MAX_RESTARTS_WITHOUT_OUTCOME:
            raise VerifierError(
                f"the grading workers died {self._restarts} times before they graded anything; "
                "their own messages, above, say why"
            )
        self._pool.stop()
        self._pool.join()
        self._pool = self._new_pool()
        tasks, self._running = list(self._running.values()), {}
        for task in tasks:
            self._schedule(task)


def _start_worker(parent_pid: int, grades_math: bool) -> None:
    """Limits of a worker, and what it needs imported, so that no verdict's time is spent on that."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then stops the pool
    warnings.simplefilter("ignore")
    if grades_math:
        importlib.import_module("srt.verifiers.math.verify")
    if sys.platform != "linux":
        return
    parent_death_signal = 1  # PR_SET_PDEATHSIG: a parent that is killed leaves no workers behind
    ctypes.CDLL(None).prctl(parent_death_signal, signal.SIGKILL)
    if os.getppid() != parent_pid:  # it died before the line above
        os._exit(1)
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[0])
    limit = pages * resource.getpagesize() + MEMORY_BYTES_PER_WORKER
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _grade(verify: Verify, response: str, problem: Problem) -> Outcome:
    """Runs in a worker. Every error becomes an outcome here: not every exception survives the way back."""
    try:
        return verify(response, problem)
    except VerifierError as error:
        return VerifierError(str(error), error.kind)
    except Exception as error:
        return VerifierError(f"{type(error).__name__}: {error}"[:1000])
