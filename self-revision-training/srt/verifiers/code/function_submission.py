"""Tests that call a function, as in HumanEval: the tests run in one sandbox, the program in another."""

import ast
import functools
import importlib.util
import json
import marshal
import os
import textwrap
from collections import OrderedDict
from dataclasses import dataclass, replace
from pathlib import Path

from srt.contract.records import Problem
from srt.verifiers.code.extract import Program
from srt.verifiers.code.failures import NOT_STARTED, check_run, last_line, run_failure
from srt.verifiers.code.function_tests import why_tests_cannot_judge
from srt.verifiers.code.languages import PYTHON, toolchain
from srt.verifiers.code.machine import LIMITS, NO_MEMORY, NO_PROCESSES
from srt.verifiers.code.sandbox.limits import Limits
from srt.verifiers.code.sandbox.process import LAUNCHER_KILLED, RunHandle, RunResult
from srt.verifiers.code.sandbox.sandbox import Sandbox
from srt.verifiers.code.submission import Submission
from srt.verifiers.types import VerifierError

SCRIPTS = Path(__file__).parent / "sandboxed"
# The modules of each script; compiled here, once, which saves each run a tenth of its time.
MODULES = {
    "candidate": ("encoder", "decoder", "interpreter"),
    "harness": ("encoder", "decoder", "remote", "interpreter"),
}
PROGRAM_EXIT_SECONDS = 5  # that the program gets to exit once its tests are over
# What the tests themselves may use, on top of the program's wall-clock limit: more is not the program's fault.
TESTS_CPU_SECONDS, TESTS_WALL_SECONDS, TESTS_MEMORY_MB = 30, 60, 1024
ENDED, TIME_LIMIT = "the program ended", "time limit"  # why there are no more replies, as sandboxed/remote.py says
READING, RUNNING = "reading", "running"  # what the tests were doing when they did not get to an end, as there
OURS = (NOT_STARTED, LAUNCHER_KILLED, NO_PROCESSES, NO_MEMORY)  # kinds that say nothing about the tests
CANNOT_JUDGE = "tests that cannot judge"
# Two functions that solve nothing. Tests that accept both accept anything.
NULL_VALUES = ("object()", "None")


@dataclass(frozen=True)
class Report:
    """What the harness reports; see sandboxed/harness.py."""

    outcome: str
    message: str
    num_calls: int


class KnownTests:
    """Which tests were seen to refuse a program that solves nothing; thread-safe."""

    def __init__(self, size: int = 10_000):
        self._size = size
        self._refuse: OrderedDict[tuple[str, str, str], bool] = OrderedDict()

    def get(self, key: tuple[str, str, str]) -> bool | None:
        return self._refuse.get(key)

    def add(self, key: tuple[str, str, str], refuse: bool) -> None:
        self._refuse[key] = refuse
        while len(self._refuse) > self._size:
            self._refuse.popitem(last=False)


class FunctionSubmission(Submission):
    """A program in Python, and tests that call its function `entry_point`.

    The two exchange values as plain data (see sandboxed/). If the problem's text is Python, as in HumanEval, it is
    executed before the program, which may rely on its imports and helpers. `known`: of all submissions together.

    Raises VerifierError when the tests cannot judge.
    """

    def __init__(
        self, sandbox: Sandbox, program: Program, problem: Problem, limits: Limits, known: KnownTests | None = None
    ):
        super().__init__(sandbox, program, problem, limits)
        self._python = toolchain(PYTHON)
        self._known = known or KnownTests()
        self._preamble = _if_python(problem.x)
        for test in problem.tests:
            if reason := why_tests_cannot_judge(test["test"], test["entry_point"]):
                raise VerifierError(f"the tests of problem {problem.id}: {reason}", CANNOT_JUDGE)

    def run_test(self, index: int) -> str | None:
        test = self.problem.tests[index]
        failure = self._run(test, self.program.source)
        if failure is None and not self._refuses_null_programs(test):
            raise VerifierError(
                f"the tests of problem {self.problem.id} pass whatever the function returns", CANNOT_JUDGE
            )
        return failure

    def _refuses_null_programs(self, test: dict) -> bool:
        key = (test["test"], test["entry_point"], self._preamble)
        refuse = self._known.get(key)
        if refuse is None:
            refuse = any(self._refuses(test, null_program(test["entry_point"], value)) for value in NULL_VALUES)
            self._known.add(key, refuse)
        return refuse

    def _refuses(self, test: dict, program: str) -> bool:
        try:
            return self._run(test, program) is not None
        except VerifierError as error:
            if error.kind in OURS:
                raise
            return True  # they do something with the value

    def _run(self, test: dict, program: str) -> str | None:
        """How the program fails the test; None when it passes."""
        task = {"preamble": self._preamble, "entry_point": test["entry_point"]}
        harness_task = task | {"test": test["test"], "seconds": self.limits.wall_seconds}
        harness, candidate = self._run_both(harness_task, task | {"program": program})
        report = _read_report(harness)
        if report is None or report.outcome == RUNNING:
            raise self._no_report(harness)
        if report.outcome == READING:
            check_run(harness)
            return "output limit: what the function returned takes too much time or memory to read"
        if report.outcome == "not started":
            raise VerifierError(
                f"the sandbox did not start: {last_line(candidate.stderr) or report.message}", NOT_STARTED
            )
        if report.outcome == "died":
            if report.message in (ENDED, TIME_LIMIT) and (failure := run_failure(candidate, self.limits)):
                return failure
            return report.message if report.message.startswith(LIMITS) else f"runtime error: {report.message}"
        if report.outcome == "failed":
            return f"wrong answer: {report.message}"
        if report.outcome != "passed" or not report.num_calls:
            words = ": ".join(filter(None, (report.outcome, report.message)))
            raise VerifierError(f"the tests of problem {self.problem.id}: {words}", report.outcome)
        if candidate.timed_out:
            return "runtime error: the program did not end after its tests"
        return run_failure(candidate, self.limits)

    def _no_report(self, harness: RunResult) -> VerifierError:
        """What it means that the tests did not run to their end."""
        check_run(harness)
        where = f"the tests of problem {self.problem.id}"
        if harness.timed_out or harness.cpu_seconds > 0.9 * TESTS_CPU_SECONDS:
            return VerifierError(f"{where} exceeded their own time limit", "tests over their time limit")
        message = last_line(harness.stderr)
        return VerifierError(f"{where} crashed (exit code {harness.exit_code}): {message}", "tests that crash")

    def _run_both(self, harness_task: dict, candidate_task: dict) -> tuple[RunResult, RunResult]:
        """The results of the harness and of the candidate."""
        wall_seconds = self.limits.wall_seconds + TESTS_WALL_SECONDS
        harness_limits = replace(
            self.limits,
            cpu_seconds=TESTS_CPU_SECONDS,
            wall_seconds=wall_seconds,
            memory_mb=max(TESTS_MEMORY_MB, self.limits.memory_mb),
        )
        calls_out, calls_in = os.pipe()
        replies_out, replies_in = os.pipe()
        candidate_run = None
        try:
            candidate_limits = replace(self.limits, wall_seconds=wall_seconds)
            candidate_run = self._start("candidate", candidate_task, (calls_out, replies_in), candidate_limits)
            harness_run = self._start("harness", harness_task, (calls_in, replies_out), harness_limits)
        except BaseException:
            if candidate_run:
                candidate_run.wait(0)
            raise
        finally:
            for descriptor in (calls_out, calls_in, replies_out, replies_in):
                os.close(descriptor)
        # The harness ends by itself, and the candidate with it, unless it ignores the closed pipe.
        harness = harness_run.wait()
        report = _read_report(harness)
        ended = report if report and report.outcome not in (READING, RUNNING) else None
        exits = ended is not None and (ended.outcome != "died" or ended.message == ENDED)
        return harness, candidate_run.wait(PROGRAM_EXIT_SECONDS if exits else 0)

    def _start(self, script: str, task: dict, descriptors: tuple[int, int], limits: Limits) -> RunHandle:
        return self.sandbox.start(
            [self._python.executable, "-S", f"{{box}}/{script}.pyc", *map(str, descriptors)],
            {f"{name}.pyc": _compiled(name) for name in (script, *MODULES[script])},
            json.dumps(task).encode(),
            limits,
            roots=self._python.roots,
            pass_fds=descriptors,
        )


@functools.cache  # a run keeps to the code that it started with
def _compiled(name: str) -> bytes:
    """A module of sandboxed/ as a .pyc file, for the interpreter that runs us; see PEP 552 for its head."""
    code = compile((SCRIPTS / f"{name}.py").read_bytes(), f"{name}.py", "exec", dont_inherit=True)
    return importlib.util.MAGIC_NUMBER + bytes(12) + marshal.dumps(code)


def _read_report(harness: RunResult) -> Report | None:
    """None when the tests did not run to their end."""
    try:
        return Report(**json.loads(harness.stdout.splitlines()[-1]))
    except (ValueError, TypeError, IndexError):
        return None


def null_program(entry_point: str, value: str) -> str:
    """A program whose function returns `value`, whatever it is called with."""
    *classes, name = entry_point.replace("()", "").split(".")
    program = f"def {name}(*args, **kwargs):\n    return {value}\n"
    for cls in reversed(classes):
        program = f"class {cls}:\n{textwrap.indent(program, '    ')}"
    return program


@functools.lru_cache(maxsize=256)  # the responses to one problem come together
def _if_python(text: str) -> str:
    """The text if it parses as Python, else an empty string."""
    try:
        ast.parse(text)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return ""
    return text
