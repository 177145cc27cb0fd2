"""Tests that run a whole program: input, output, and either the expected output or a checker."""

from srt.contract.records import Problem
from srt.verifiers.code.compare import first_difference
from srt.verifiers.code.extract import Program
from srt.verifiers.code.failures import run_failure
from srt.verifiers.code.languages import PROGRAM, PYTHON, command_line, toolchain
from srt.verifiers.code.limits import Limits
from srt.verifiers.code.sandbox import Sandbox
from srt.verifiers.code.submission import Submission
from srt.verifiers.types import VerifierError

CHECKER_LIMITS = Limits(cpu_seconds=30, wall_seconds=60, memory_mb=1024, output_bytes=2**20, processes=16)


class ProgramSubmission(Submission):
    """`executable`: what `build` returned for the program."""

    def __init__(self, sandbox: Sandbox, program: Program, problem: Problem, limits: Limits, executable: bytes):
        super().__init__(sandbox, program, problem, limits)
        language = program.language
        source = language.source(program.source)
        self._files = {PROGRAM if language.builds else source: executable}
        self._roots = toolchain(language).roots if language.needs_tool else ()
        self._command = command_line(language, language.run, source, limits.memory_mb)
        if problem.output_file:
            # The output is the content of the named file, not what the program prints.
            script = '"$@" >/dev/null; code=$?; cat -- "$0"; exit $code'
            self._command = ["/bin/sh", "-c", script, problem.output_file, *self._command]

    def run_test(self, index: int) -> str | None:
        test = self.problem.tests[index]
        test_input = test["input"].encode()
        if self.problem.input_file:
            stdin, work_files = b"", {self.problem.input_file: test_input}
        else:
            stdin, work_files = test_input, {}
        result = self.sandbox.run(self._command, self._files, stdin, self.limits, work_files, self._roots)
        if failure := run_failure(result, self.limits):
            return failure
        if self.problem.checker:
            return self._check(test, result.stdout)
        difference = first_difference(result.stdout, test["output"].encode())
        return f"wrong answer: {difference}" if difference else None

    def _check(self, test: dict, output: bytes) -> str | None:
        """The problem's own checker decides. It may crash on malformed output, which is then a wrong answer."""
        score = self._run_checker(test, output)
        if score is None and self._run_checker(test, test["output"].encode()) != 1:
            raise VerifierError(
                f"the checker of problem {self.problem.id} does not accept the expected output", "a checker failed"
            )
        return None if score == 1 else f"wrong answer: the problem's checker rejects {_shown(output)!r}"

    def _run_checker(self, test: dict, output: bytes) -> float | None:
        """The number that the checker prints, 1 for correct; None when it fails.

        It is called as in open-r1/codeforces.
        """
        work_files: dict[str, bytes] = {
            "input.txt": test["input"].encode(),
            "correct_output.txt": test["output"].encode(),
            "solution_output.txt": output,
        }
        command = [toolchain(PYTHON).executable, "{box}/checker.py", *work_files]
        files = {"checker.py": self.problem.checker.encode()}
        result = self.sandbox.run(command, files, b"", CHECKER_LIMITS, work_files, toolchain(PYTHON).roots)
        if result.exit_code or result.timed_out:
            return None
        try:
            return float(result.stdout)
        except ValueError:
            return None


def _shown(output: bytes) -> str:
    text = output[:100].decode("utf-8", "replace").strip()
    return text if len(output) <= 60 else text[:60] + "..."
