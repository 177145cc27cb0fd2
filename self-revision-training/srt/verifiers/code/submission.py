"""A program that is ready to be tested."""

from abc import ABC, abstractmethod

from srt.contract.records import Problem
from srt.verifiers.code.extract import Program
from srt.verifiers.code.machine import KILLED_BY_SOMEONE, check_machine, pressure
from srt.verifiers.code.sandbox.limits import Limits
from srt.verifiers.code.sandbox.sandbox import Sandbox
from srt.verifiers.types import Verdict

SHOWN_CHARACTERS = 1000  # of the program, in Verdict.extracted


def shown_source(program: Program) -> str:
    """Verdict.extracted of a program."""
    return program.source[:SHOWN_CHARACTERS]


class Submission(ABC):
    """A program and the tests of its problem. `run_test` may be called for several tests concurrently."""

    def __init__(self, sandbox: Sandbox, program: Program, problem: Problem, limits: Limits):
        self.sandbox = sandbox
        self.program = program
        self.problem = problem
        self.limits = limits

    @property
    def num_tests(self) -> int:
        return len(self.problem.tests)

    @abstractmethod
    def run_test(self, index: int) -> str | None:
        """How the program fails the test, in words; None when it passes.

        Raises VerifierError when the test itself is broken.
        """

    def judge_test(self, index: int) -> str | None:
        """`run_test`; raises VerifierError, too, when the machine was short of what the program needed.

        A program that was killed, but not by a limit, runs again: whoever killed it may not do so twice.
        """
        failure = None
        for _ in range(2):
            before = pressure()
            failure = self.run_test(index)
            if failure is None:
                return None
            check_machine(before, failure)
            if not failure.startswith(KILLED_BY_SOMEONE):
                return failure
        return failure

    def passed(self) -> Verdict:
        return Verdict(True, shown_source(self.program), f"passed {self.num_tests} of {self.num_tests} tests")

    def failed(self, index: int, failure: str) -> Verdict:
        reason = f"test {index + 1} of {self.num_tests}: {failure}"
        return Verdict(False, shown_source(self.program), reason)
