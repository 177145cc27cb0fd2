"""The judge of programs: response -> Verdict, whose reason names the first failing test and how it failed.

A program is built once and run on each test until one fails. Everything that runs, the compiler included, runs
in the sandbox; the expected outputs never enter the program's. Time limits apply to CPU time, so that they are
fair on a busy machine; a generous wall-clock limit catches programs that wait.
"""

import sys
from dataclasses import dataclass

from srt.common.errors import UserError
from srt.contract.records import Problem
from srt.verifiers.code.build import CompileError, build
from srt.verifiers.code.deadline import bounded
from srt.verifiers.code.extract import extract_program
from srt.verifiers.code.failures import STARTUP_CPU_SECONDS
from srt.verifiers.code.function_submission import FunctionSubmission, KnownTests
from srt.verifiers.code.languages import PYTHON, Language, installed_roots
from srt.verifiers.code.machine import check_machine, pressure
from srt.verifiers.code.program_submission import ProgramSubmission
from srt.verifiers.code.sandbox.limits import MAX_CPU_SECONDS, MAX_MEMORY_MB, Limits, wall_seconds
from srt.verifiers.code.sandbox.sandbox import Sandbox
from srt.verifiers.code.submission import Submission, shown_source
from srt.verifiers.types import Verdict, VerifierError

MIN_MEMORY_MB = 16  # what is measured includes a process of ours, which becomes the program
OUTPUT_BYTES = 32 * 2**20  # of any file that a program writes, standard output included


@dataclass(frozen=True)
class JudgeConfig:
    """The knobs CODE_*. The limits hold for problems that specify none.

    `time_limit`: seconds of CPU time per test; `memory_limit`: MB; `time_factor` multiplies every time limit.
    """

    sandbox: str
    time_limit: float
    memory_limit: float
    time_factor: float

    def identity(self) -> dict[str, float]:
        """What determines the verdicts, for run.json."""
        names = ("time_limit", "memory_limit", "time_factor")
        return {f"code_{name}": getattr(self, name) for name in names}


def open_sandbox(config: JudgeConfig, has_network: bool = True) -> Sandbox:
    """Raises UserError, which says what to install, when programs cannot be judged on this machine."""
    if sys.platform != "linux":
        raise UserError("MODE=code requires Linux: programs cannot be sandboxed on other systems")
    return Sandbox(config.sandbox, installed_roots(), has_network)


class CodeJudge:
    """Judges programs on this machine; thread-safe."""

    def __init__(self, config: JudgeConfig, sandbox: Sandbox):
        self.config = config
        self.sandbox = sandbox
        self._known_tests = KnownTests()

    def open_submission(self, response: str, problem: Problem) -> Verdict | Submission:
        """The response's program, built and ready for its tests; a Verdict if it does not get that far.

        Raises VerifierError when the compiler is missing, the problem has no tests, or they cannot judge.
        """
        if not problem.tests:
            raise VerifierError(f"problem {problem.id} has no tests", "a problem without tests")
        program = bounded(extract_program, response)
        if program is None:
            return Verdict(False, "", "no complete code block in a known language")
        limits = self.limits(problem, program.language)
        if "entry_point" in problem.tests[0]:
            if program.language is not PYTHON:
                reason = f"expected a function in Python, got {program.language.name}"
                return Verdict(False, shown_source(program), reason)
            return FunctionSubmission(self.sandbox, program, problem, limits, self._known_tests)
        before = pressure()
        try:
            executable = build(program, self.sandbox)
        except CompileError as error:
            check_machine(before, reason := f"compile error: {error}")
            return Verdict(False, shown_source(program), reason)
        return ProgramSubmission(self.sandbox, program, problem, limits, executable)

    def judge(self, response: str, problem: Problem) -> Verdict:
        """Runs one test after another. Raises VerifierError; see `open_submission`."""
        submission = self.open_submission(response, problem)
        if isinstance(submission, Verdict):
            return submission
        for index in range(submission.num_tests):
            if failure := submission.judge_test(index):
                return submission.failed(index, failure)
        return submission.passed()

    def limits(self, problem: Problem, language: Language) -> Limits:
        """`cpu_seconds` is what the verdict compares with; the kernel kills within a second after that."""
        seconds = (
            self._limit(problem, "time_seconds", self.config.time_limit, MAX_CPU_SECONDS) * self.config.time_factor
        )
        memory_mb = self._limit(problem, "memory_mb", self.config.memory_limit, MAX_MEMORY_MB)
        return Limits(
            cpu_seconds=seconds + STARTUP_CPU_SECONDS,
            wall_seconds=wall_seconds(seconds),
            memory_mb=max(MIN_MEMORY_MB, memory_mb) + language.runtime_mb,
            output_bytes=OUTPUT_BYTES,
            processes=language.processes,
            address_space=language.address_space,
        )

    def _limit(self, problem: Problem, name: str, default: float, largest: float) -> float:
        value = problem.limits.get(name, default)
        if not value > 0:  # NaN, too
            raise VerifierError(f"problem {problem.id}: {name}={value!r} is no limit", "a limit that is none")
        return min(value, largest)
