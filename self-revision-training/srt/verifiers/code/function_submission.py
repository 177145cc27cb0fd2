"""Tests that call a function, as in HumanEval: the tests run in one sandbox, the program in another."""

import ast
import functools
import json
import math
import os
from pathlib import Path

from srt.contract.records import Problem
from srt.verifiers.code.extract import Program
from srt.verifiers.code.failures import exceeded_limit, last_line, run_failure
from srt.verifiers.code.languages import PYTHON, toolchain
from srt.verifiers.code.limits import Limits
from srt.verifiers.code.process import RunHandle, RunResult
from srt.verifiers.code.sandbox import Sandbox
from srt.verifiers.code.sandboxed.harness import BROKEN, CANDIDATE_DIED, FAILED, PASSED
from srt.verifiers.code.submission import Submission
from srt.verifiers.types import VerifierError

SCRIPTS = Path(__file__).parent / "sandboxed"
CANDIDATE_EXIT_SECONDS = 0.5  # that the program gets to exit once its tests are over


class FunctionSubmission(Submission):
    """A program in Python, and tests that call its function `entry_point`.

    The two exchange values as plain data (see sandboxed/). If the problem's text is Python, as in HumanEval, it is
    executed before the program, which may rely on its imports and helpers.
    """

    def __init__(self, sandbox: Sandbox, program: Program, problem: Problem, limits: Limits):
        super().__init__(sandbox, program, problem, limits)
        self._python = toolchain(PYTHON)

    def run_test(self, index: int) -> str | None:
        test = self.problem.tests[index]
        task = {"preamble": _if_python(self.problem.x), "entry_point": test["entry_point"]}
        harness, candidate = self._run_both(task | {"test": test["test"]}, task | {"program": self.program.source})
        if harness.exit_code == PASSED:
            return None if candidate.timed_out else exceeded_limit(candidate, self.limits)
        message = last_line(harness.stderr)
        if harness.exit_code == BROKEN:
            raise VerifierError(f"the tests of problem {self.problem.id}: {message}", "tests that cannot be run")
        if harness.exit_code == CANDIDATE_DIED or harness.timed_out:
            failure = run_failure(candidate, self.limits)
            return failure or "runtime error: the program ended before its tests"
        if harness.exit_code == FAILED:
            return f"wrong answer: {message}"
        return f"wrong answer: the tests crashed (exit code {harness.exit_code}) on the function's return value"

    def _run_both(self, harness_task: dict, candidate_task: dict) -> tuple[RunResult, RunResult]:
        """The results of the harness and of the candidate."""
        calls_out, calls_in = os.pipe()
        replies_out, replies_in = os.pipe()
        try:
            candidate_run = self._start("candidate.py", candidate_task, (calls_out, replies_in))
            harness_run = self._start("harness.py", harness_task, (calls_in, replies_out))
        finally:
            for descriptor in (calls_out, calls_in, replies_out, replies_in):
                os.close(descriptor)
        # The harness ends with the candidate. The candidate ends with the harness, or ignores the closed pipe.
        harness = harness_run.wait()
        candidate_died = harness.exit_code == CANDIDATE_DIED
        return harness, candidate_run.wait(math.inf if candidate_died else CANDIDATE_EXIT_SECONDS)

    def _start(self, script: str, task: dict, descriptors: tuple[int, int]) -> RunHandle:
        return self.sandbox.start(
            [self._python.executable, f"{{box}}/{script}", *map(str, descriptors)],
            {script: (SCRIPTS / script).read_bytes()},
            json.dumps(task).encode(),
            self.limits,
            roots=self._python.roots,
            pass_fds=descriptors,
        )


@functools.lru_cache(maxsize=256)  # the responses to one problem come together
def _if_python(text: str) -> str:
    """The text if it parses as Python, else an empty string."""
    try:
        ast.parse(text)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return ""
    return text
