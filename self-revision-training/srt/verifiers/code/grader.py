"""Grades programs in the background, by a judging process (judge_process.py)."""

import multiprocessing
import os
from collections.abc import Callable, Hashable
from typing import TypeVar

from srt.common.errors import UserError
from srt.contract.records import Problem
from srt.verifiers.base import BackgroundGrader
from srt.verifiers.code.judge import JudgeConfig, open_sandbox
from srt.verifiers.code.judge_process import serve
from srt.verifiers.code.problem_cache import ProblemSender
from srt.verifiers.types import Outcome, VerifierError

Result = TypeVar("Result")


class CodeGrader(BackgroundGrader):
    """Grades programs; see srt.verifiers.types.Grader.

    Up to `num_workers` programs run concurrently, at most one per CPU core. Raises UserError when the sandbox does
    not work on this machine. `poll` raises VerifierError when the judging process died, and UserError when the
    programs of canary.py get other verdicts than they should: before the first, and after a series of failures.
    """

    def __init__(self, num_workers: int, config: JudgeConfig):
        super().__init__()
        open_sandbox(config)
        cores = len(os.sched_getaffinity(0))
        if num_workers > cores:
            print(f"GRADING_WORKERS={num_workers}: capped at {cores} concurrent programs (one per CPU core)")
        self._keys: dict[int, Hashable] = {}  # by request number
        self._num_requests = 0
        self._problems = ProblemSender()
        context = multiprocessing.get_context("spawn")  # forking a process that has threads may hang
        self._connection, judge_connection = context.Pipe()
        arguments = (judge_connection, min(num_workers, cores), config, os.getpid())
        self._process = context.Process(target=serve, args=arguments, daemon=True)
        self._process.start()
        judge_connection.close()

    def close(self) -> None:
        self._connection.close()  # this ends the process, and with it every program
        self._process.join(timeout=5)
        self._process.kill()
        self._process.join()

    def _num_in_flight(self) -> int:
        return len(self._keys)

    def _send(self, key: Hashable, response: str, problem: Problem) -> None:
        self._num_requests += 1
        self._keys[self._num_requests] = key
        message = self._problems.message(self._num_requests, response, problem)
        self._communicate(lambda: self._connection.send(message))

    def _collect(self, timeout: float) -> list[tuple[Hashable, Outcome]]:
        outcomes = []
        while self._keys and self._communicate(lambda: self._connection.poll(0.0 if outcomes else timeout)):
            number, outcome = self._communicate(self._connection.recv)
            if isinstance(outcome, UserError):
                raise outcome
            outcomes.append((self._keys.pop(number), outcome))
        return outcomes

    def _communicate(self, action: Callable[[], Result]) -> Result:
        try:
            return action()
        except (EOFError, OSError) as error:
            self._process.join(timeout=5)
            raise VerifierError(f"the judging process died (exit code {self._process.exitcode})") from error
