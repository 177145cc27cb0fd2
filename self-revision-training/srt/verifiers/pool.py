"""Grading in worker processes that are killed when a comparison hangs."""

import ctypes
import functools
import importlib
import logging
import multiprocessing
import resource
import signal
import sys
import warnings
from collections.abc import Callable, Hashable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, wait

from pebble import ProcessPool

from srt.errors import UserError
from srt.records import Problem
from srt.verifiers import Verdict, VerifierBroke

Outcome = Verdict | VerifierBroke
MEMORY_LIMIT_BYTES = 4 * 2**30  # address space of one worker
TASKS_PER_WORKER = 20_000  # then a fresh one takes over: sympy's caches grow


def _verify_math(response: str, problem: Problem) -> Verdict:
    return importlib.import_module("srt.verifiers.math").verify_math(response, problem.answer)


VERIFIERS: dict[str, Callable[[str, Problem], Verdict]] = {"math": _verify_math}


def _start_worker() -> None:
    """Limits of a worker, and what it needs imported, so that no verdict's time is spent on that."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then stops the pool
    if sys.platform == "linux":
        parent_death_signal = 1  # PR_SET_PDEATHSIG: a parent that is killed leaves no workers behind
        ctypes.CDLL(None).prctl(parent_death_signal, signal.SIGKILL)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT_BYTES, MEMORY_LIMIT_BYTES))
    warnings.simplefilter("ignore")
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    importlib.import_module("srt.verifiers.math")


class Grader:
    """Grades responses in the background.

        with Grader(num_workers=2, time_limit_seconds=10) as grader:
            grader.submit(key, response, problem, finish_reason)
            for key, outcome in grader.poll(): ...

    An outcome is a Verdict, or a VerifierBroke when the comparison hung, crashed or failed; the other
    comparisons are not affected.
    """

    def __init__(
        self,
        num_workers: int,
        time_limit_seconds: float,
        verifiers: dict[str, Callable[[str, Problem], Verdict]] = VERIFIERS,
    ):
        self.time_limit = time_limit_seconds
        self.verifiers = verifiers
        self._ready: list[tuple[Hashable, Outcome]] = []
        self._running: dict[Future, Hashable] = {}
        # spawn: a fork of a process that runs threads or holds a GPU may hang.
        self._pool = ProcessPool(
            max_workers=num_workers,
            max_tasks=TASKS_PER_WORKER,
            initializer=_start_worker,
            context=multiprocessing.get_context("spawn"),
        )

    def __enter__(self) -> "Grader":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.stop()
        self._pool.join()

    @property
    def pending(self) -> int:
        return len(self._running) + len(self._ready)

    def submit(self, key: Hashable, response: str, problem: Problem, finish_reason: str) -> None:
        """Queue a response. One that the token limit cut off ("length") is wrong without being graded."""
        if problem.mode not in self.verifiers:
            raise UserError(f"MODE={problem.mode}: there is no verifier for it; use MODE=math")
        if finish_reason == "length":
            self._ready.append((key, Verdict(False, "", "cut off by the token limit")))
            return
        # Lone surrogates (invalid Unicode) cannot be sent to a worker.
        clean = response.encode("utf-8", "replace").decode("utf-8")
        work = functools.partial(self.verifiers[problem.mode], clean, problem)
        self._running[self._pool.schedule(work, timeout=self.time_limit)] = key

    def poll(self, timeout: float = 0.0) -> Iterable[tuple[Hashable, Outcome]]:
        """All outcomes since the last call; waits up to `timeout` seconds when there is none."""
        finished = {future for future in self._running if future.done()}
        if not finished and not self._ready and self._running and timeout:
            finished = wait(self._running, timeout, return_when=FIRST_COMPLETED).done
        ready, self._ready = self._ready, []
        return ready + [(self._running.pop(future), self._outcome(future)) for future in finished]

    def grade_all(self, items: list[tuple[str, Problem, str]]) -> list[Outcome]:
        """The outcomes of (response, problem, finish_reason) items, in their order."""
        for index, (response, problem, finish_reason) in enumerate(items):
            self.submit(index, response, problem, finish_reason)
        outcomes: dict[Hashable, Outcome] = {}
        while len(outcomes) < len(items):
            outcomes.update(self.poll(timeout=1.0))
        return [outcomes[index] for index in range(len(items))]

    def _outcome(self, future: Future) -> Outcome:
        try:
            return future.result()
        except VerifierBroke as error:
            return error
        except TimeoutError:
            return VerifierBroke(f"no verdict within {self.time_limit:g} s")
        except Exception as error:  # a crashed worker, or an error nobody foresaw in it: never a verdict
            return VerifierBroke(f"{type(error).__name__}: {error}")
