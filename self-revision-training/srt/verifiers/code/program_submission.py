"""Tests that run a whole program: input, output, and either the expected output or a checker."""

import re
from dataclasses import replace

from srt.contract.records import Problem
from srt.verifiers.code.compare import first_difference
from srt.verifiers.code.deadline import bounded
from srt.verifiers.code.extract import Program
from srt.verifiers.code.failures import run_failure
from srt.verifiers.code.languages import PROGRAM, PYTHON, command_line, toolchain
from srt.verifiers.code.sandbox.limits import MAX_NAME_BYTES, Limits, wall_seconds
from srt.verifiers.code.sandbox.sandbox import Sandbox
from srt.verifiers.code.submission import Submission
from srt.verifiers.types import VerifierError

CHECKER_LIMITS = Limits(cpu_seconds=10, wall_seconds=20, memory_mb=1024, output_bytes=2**20, processes=16)
CHECKER_START_SECONDS = 1.0  # of CPU time: Python, and a checker's imports
FULL_SCORES = (1, 100)  # what checkers print for a correct output
_EMPTY_LINES = re.compile(rb"\n{2,}")


class ProgramSubmission(Submission):
    """`executable`: what `build` returned for the program."""

    def __init__(self, sandbox: Sandbox, program: Program, problem: Problem, limits: Limits, executable: bytes):
        super().__init__(sandbox, program, problem, limits)
        for name in (problem.input_file, problem.output_file):
            if "/" in name or len(name.encode()) > MAX_NAME_BYTES:
                raise VerifierError(
                    f"problem {problem.id}: no file can be called {name[:60]!r}", "a bad file name"
                )
        language = program.language
        self._files = {PROGRAM if language.build else language.source(program.source): executable}
        self._roots = toolchain(language).roots if language.needs_tool else ()
        memory_mb = limits.memory_mb - language.runtime_mb
        self._command = command_line(language, language.run, program.source, memory_mb)
        if problem.output_file:
            # The output is the content of the named file, not what the program prints.
            script = '"$@" >/dev/null; code=$?; cat -- "$0"; exit $code'
            self._command = ["/bin/sh", "-c", script, problem.output_file, *self._command]

    def run_test(self, index: int) -> str | None:
        test = self.problem.tests[index]
        test_input = without_carriage_returns(test["input"].encode())
        if self.problem.input_file:
            stdin, work_files = b"", {self.problem.input_file: test_input}
        else:
            stdin, work_files = test_input, {}
        result = self.sandbox.run(self._command, self._files, stdin, self.limits, work_files, self._roots)
        if failure := run_failure(result, self.limits):
            return failure
        if self.problem.checker:
            return self._check(test, result.stdout)
        difference = bounded(first_difference, result.stdout, test["output"].encode())
        return f"wrong answer: {difference}" if difference else None

    def _check(self, test: dict, output: bytes) -> str | None:
        """The problem's own checker decides. It may crash on malformed output, which is then a wrong answer."""
        score = self._run_checker(test, output)
        if score is None and self._run_checker(test, test["output"].encode()) not in FULL_SCORES:
            raise VerifierError(
                f"the checker of problem {self.problem.id} does not accept the expected output", "a checker failed"
            )
        return None if score in FULL_SCORES else f"wrong answer: the problem's checker rejects {_shown(output)!r}"

    def _run_checker(self, test: dict, output: bytes) -> float | None:
        """The number that the checker prints, 1 or 100 for correct; None when it fails.

        It is called as in open-r1/codeforces (guipenedo/piston, packages/codeforces/1.0.0/run): with Unix line
        ends and without empty lines, and for no longer than 10 seconds.
        """
        work_files: dict[str, bytes] = {
            "input.txt": without_carriage_returns(test["input"].encode()),
            "correct_output.txt": without_empty_lines(test["output"].encode()),
            "solution_output.txt": bounded(without_empty_lines, output),
        }
        command = [toolchain(PYTHON).executable, "{box}/checker.py", *work_files]
        files = {"checker.py": self.problem.checker.encode()}
        limits = checker_limits(self.limits)
        result = self.sandbox.run(command, files, b"", limits, work_files, toolchain(PYTHON).roots)
        if run_failure(result, limits):
            return None
        try:
            return float(result.stdout)
        except ValueError:
            return None


def checker_limits(limits: Limits) -> Limits:
    """A checker does less than the programs that it checks; so the limit of a program bounds its time, too."""
    seconds = min(CHECKER_LIMITS.cpu_seconds, limits.cpu_seconds + CHECKER_START_SECONDS)
    return replace(CHECKER_LIMITS, cpu_seconds=seconds, wall_seconds=wall_seconds(seconds))


def without_carriage_returns(text: bytes) -> bytes:
    """With Unix line ends: some tests were recorded on Windows."""
    return text.replace(b"\r\n", b"\n").removesuffix(b"\r")


def without_empty_lines(text: bytes) -> bytes:
    """With Unix line ends, too."""
    return _EMPTY_LINES.sub(b"\n", without_carriage_returns(text)).removeprefix(b"\n")


def _shown(output: bytes) -> str:
    text = output[:100].decode("utf-8", "replace").strip()
    return text if len(output) <= 60 else text[:60] + "..."
