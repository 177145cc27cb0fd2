"""The judge of programs: response -> Verdict, whose reason names the first test that failed, and how.

A program is built once and run on every test until one fails. Everything that is run, the compiler included, runs
in the sandbox; the expected outputs never do. Time limits are of processor time, so that they are fair on a busy
machine; beside them stands a generous limit on the wall clock for programs that wait.
"""

import ast
import functools
import json
import math
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path

from srt.contract.records import Problem
from srt.verifiers.code.compare import difference
from srt.verifiers.code.extract import Program, extract_program
from srt.verifiers.code.languages import PROGRAM, PYTHON, Language, toolchain
from srt.verifiers.code.sandbox import Limits, Ran, Sandbox
from srt.verifiers.code.sandboxed.harness import BROKEN, CALLEE_DIED, FAILED, PASSED
from srt.verifiers.types import Verdict, VerifierError

SANDBOXED = Path(__file__).parent / "sandboxed"
OUTPUT_BYTES = 32 * 2**20  # of any file that a program writes, its standard output too
START_SECONDS = 0.05  # of processor time beside the limit: the sandbox's own
BUILD = Limits(
    cpu_seconds=60, wall_seconds=120, memory_mb=2048, output_bytes=128 * 2**20, processes=256, stack_mb=16
)
CHECKER = Limits(cpu_seconds=30, wall_seconds=60, memory_mb=1024, output_bytes=2**20, processes=16)
PATIENCE_SECONDS = 0.5  # with a program whose tests are over
SHOWN_CHARACTERS = 1000  # of the program, in Verdict.extracted
OUT_OF_MEMORY = ("MemoryError", "bad_alloc", "OutOfMemoryError", "memory allocation of", "out of memory")
KILLED = 128 + 9


@dataclass(frozen=True)
class JudgeConfig:
    """The knobs CODE_*. Limits for problems that name none: seconds of processor time for a test, megabytes."""

    sandbox: str
    time_limit: float
    memory_limit: float
    time_factor: float

    def identity(self) -> dict[str, float]:
        """What decides about right and wrong, for run.json."""
        names = ("time_limit", "memory_limit", "time_factor")
        return {f"code_{name}": getattr(self, name) for name in names}


class CodeJudge:
    """Judges on this machine. May be used from several threads."""

    def __init__(self, settings: JudgeConfig, sandbox: Sandbox):
        self.settings = settings
        self.sandbox = sandbox

    def open_trial(self, response: str, problem: Problem) -> "Verdict | Trial":
        """The program of the response, built and ready for the tests; a Verdict when it does not get so far.

        Raises VerifierError when the compiler is missing or the problem has no tests.
        """
        if not problem.tests:
            raise VerifierError(f"problem {problem.id} has no tests", "a problem without tests")
        program = extract_program(response)
        if program is None:
            return Verdict(False, "", "no complete code block in a known language")
        extracted = program.source[:SHOWN_CHARACTERS]
        if "entry_point" in problem.tests[0]:
            if program.language is not PYTHON:
                other = program.language.name
                return Verdict(False, extracted, f"a function in Python is asked for, not in {other}")
            return FunctionTrial(self, program, problem, extracted)
        built = self._build(program)
        if isinstance(built, str):
            return Verdict(False, extracted, built)
        return Trial(self, program, problem, extracted, built)

    def judge(self, response: str, problem: Problem) -> Verdict:
        """One test after the other. Raises VerifierError; see open_trial."""
        trial = self.open_trial(response, problem)
        if isinstance(trial, Verdict):
            return trial
        for number in range(trial.tests):
            if failure := trial.run_test(number):
                return trial.verdict(number, failure)
        return trial.verdict()

    def limits(self, problem: Problem, language: Language) -> Limits:
        """`cpu_seconds` is what the verdict compares with; the sandbox kills within a second beyond it."""
        seconds = problem.limits.get("time_seconds", self.settings.time_limit) * self.settings.time_factor
        return Limits(
            cpu_seconds=seconds + START_SECONDS,
            wall_seconds=4 * seconds + 4,
            memory_mb=problem.limits.get("memory_mb", self.settings.memory_limit),
            output_bytes=OUTPUT_BYTES,
            processes=language.processes,
            address_space=language.address_space,
        )

    def over_limit(self, ran: Ran, limits: Limits) -> str | None:
        """The limit that a run passed, in words, or None."""
        allowed = limits.cpu_seconds - START_SECONDS
        # A fork has what this process has resident until it becomes the program: that is not the program's.
        if ran.memory_mb > max(limits.memory_mb, _resident_mb() + 16):
            return f"memory limit ({ran.memory_mb:.0f} MB, {limits.memory_mb:g} MB allowed)"
        if ran.flooded:
            return f"output limit ({OUTPUT_BYTES >> 20} MiB)"
        # A program killed by the limit has used it up, to within what the kernel counts in.
        if ran.cpu_seconds > limits.cpu_seconds or (ran.exit_code == KILLED and ran.cpu_seconds > 0.95 * allowed):
            return f"time limit ({ran.cpu_seconds:.2f} s of processor time, {allowed:g} s allowed)"
        if ran.hung:
            return f"time limit (it waits: {limits.wall_seconds:g} s have passed)"
        if ran.exit_code and any(words in ran.stderr for words in OUT_OF_MEMORY):
            return f"memory limit ({limits.memory_mb:g} MB allowed): {_last_line(ran.stderr)}"
        return None

    def what_went_wrong(self, ran: Ran, limits: Limits) -> str | None:
        """A limit that was passed or a crash, in words; None for a run that ended by itself with exit code 0."""
        if (failure := self.over_limit(ran, limits)) or not ran.exit_code:
            return failure
        return f"runtime error (exit code {ran.exit_code}): {_last_line(ran.stderr)}".removesuffix(": ")

    def command(self, language: Language, parts: tuple[str, ...], source: str, memory_mb: float = 0) -> list[str]:
        tool = toolchain(language).executable
        filled = {
            "tool": tool,
            "bin": os.path.dirname(tool),
            "source": "{box}/" + source,
            "name": source.rsplit(".", 1)[0],
            "memory": str(int(memory_mb)),
            "box": "{box}",
        }
        return [part.format(**filled) for part in parts]

    def _build(self, program: Program) -> bytes | str:
        """The built program, or what the compiler has to say."""
        language = program.language
        toolchain(language)  # a missing interpreter is noticed here
        source = program.source.encode("utf-8", "replace")
        if not language.builds:
            return source
        name = language.source(program.source)
        limits = replace(BUILD, address_space=language.address_space)
        for build in language.builds:
            (build,) = self.command(language, (build,), name)
            # The sandbox is gone with the run: what was built comes out as its output.
            script = f"{build} >&2 && cat {PROGRAM}"
            ran = self.sandbox.run(["/bin/sh", "-c", script], {name: source}, b"", limits)
            if ran.exit_code == 0 and not ran.hung and not ran.flooded:
                return ran.stdout
        if ran.hung or ran.exit_code == KILLED:
            return "compile error: it took too long"
        lines = [line for line in ran.stderr.splitlines() if "error" in line] or ran.stderr.strip().splitlines()
        said = lines[0].strip()[:300] if lines else "no message"
        return "compile error: " + re.sub(rf"\S*/(?={re.escape(name)})", "", said)


class Trial:
    """A program that is built, and its tests. `run_test` may be called for several tests at the same time."""

    def __init__(self, judge: CodeJudge, program: Program, problem: Problem, extracted: str, built: bytes = b""):
        self.judge = judge
        self.problem = problem
        self.program = program
        self.limits = judge.limits(problem, program.language)
        self._extracted = extracted
        language = program.language
        source = language.source(program.source)
        self._files = {PROGRAM if language.builds else source: built}
        self._roots = toolchain(language).roots if language.needs_tool else ()
        self._command = judge.command(language, language.run, source, self.limits.memory_mb)
        if problem.output_file:
            # What the program leaves in the named file is its output, and what it prints is not.
            script = '"$@" >/dev/null; code=$?; cat -- "$0"; exit $code'
            self._command = ["/bin/sh", "-c", script, problem.output_file, *self._command]

    @property
    def tests(self) -> int:
        return len(self.problem.tests)

    def run_test(self, number: int) -> str | None:
        """How the program fails the test, in words; None when it passes. Raises VerifierError."""
        test = self.problem.tests[number]
        given = test["input"].encode()
        stdin, work_files = (b"", {self.problem.input_file: given}) if self.problem.input_file else (given, {})
        ran = self.judge.sandbox.run(self._command, self._files, stdin, self.limits, work_files, self._roots)
        if failure := self.judge.what_went_wrong(ran, self.limits):
            return failure
        if self.problem.checker:
            return self._check(test, ran.stdout)
        different = difference(ran.stdout, test["output"].encode())
        return f"wrong answer: {different}" if different else None

    def verdict(self, failed: int | None = None, failure: str = "") -> Verdict:
        if failed is None:
            return Verdict(True, self._extracted, f"passed {self.tests} of {self.tests} tests")
        return Verdict(False, self._extracted, f"test {failed + 1} of {self.tests}: {failure}")

    def _check(self, test: dict, output: bytes) -> str | None:
        """The problem's own checker decides. It may fall over what it cannot read, which is then no answer."""
        says = self._ask_checker(test, output)
        if says is None and self._ask_checker(test, test["output"].encode()) != 1:
            raise VerifierError(
                f"the checker of problem {self.problem.id} does not accept the expected output", "a checker failed"
            )
        return None if says == 1 else f"wrong answer: {_start(output)!r} is refused by the problem's checker"

    def _ask_checker(self, test: dict, output: bytes) -> float | None:
        """What the checker prints, 1 for right; None when it fails. Its arguments are as in open-r1/codeforces."""
        names = ("input.txt", "correct_output.txt", "solution_output.txt")
        contents = (test["input"].encode(), test["output"].encode(), output)
        command = [toolchain(PYTHON).executable, "{box}/checker.py", *names]
        files = {"checker.py": self.problem.checker.encode()}
        work_files = dict(zip(names, contents, strict=True))
        ran = self.judge.sandbox.run(command, files, b"", CHECKER, work_files, toolchain(PYTHON).roots)
        if ran.exit_code or ran.hung:
            return None
        try:
            return float(ran.stdout)
        except ValueError:
            return None


class FunctionTrial(Trial):
    """Tests that call a function, as in HumanEval: the tests in one sandbox, the program in another.

    Values travel between them as plain data (see inside/caller.py). The problem's text stands before the program
    where it is Python, as HumanEval's is: its imports and helpers are the program's.
    """

    def __init__(self, judge: CodeJudge, program: Program, problem: Problem, extracted: str):
        super().__init__(judge, program, problem, extracted, b"")

    def run_test(self, number: int) -> str | None:
        test = self.problem.tests[number]
        given = {"preamble": _if_python(self.problem.x), "entry_point": test["entry_point"]}
        caller, callee = self._run_both(given | {"test": test["test"]}, given | {"program": self.program.source})
        if caller.exit_code == PASSED:
            return None if callee.hung else self.judge.over_limit(callee, self.limits)
        said = _last_line(caller.stderr)
        if caller.exit_code == BROKEN:
            raise VerifierError(f"the tests of problem {self.problem.id}: {said}", "tests that cannot be run")
        if caller.exit_code == CALLEE_DIED or caller.hung:
            failure = self.judge.what_went_wrong(callee, self.limits)
            return failure or "runtime error: the program ended before the tests did"
        if caller.exit_code == FAILED:
            return f"wrong answer: {said}"
        return f"wrong answer: the tests end with exit code {caller.exit_code} on what the function gave"

    def _run_both(self, for_caller: dict, for_callee: dict) -> tuple[Ran, Ran]:
        python, start = toolchain(PYTHON).executable, self.judge.sandbox.start
        calls_out, calls_in = os.pipe()
        answers_out, answers_in = os.pipe()
        try:
            callee = start(
                [python, "{box}/candidate.py", str(calls_out), str(answers_in)],
                {"candidate.py": (SANDBOXED / "candidate.py").read_bytes()},
                json.dumps(for_callee).encode(),
                self.limits,
                roots=self._roots,
                pass_fds=(calls_out, answers_in),
            )
            caller = start(
                [python, "{box}/harness.py", str(calls_in), str(answers_out)],
                {"harness.py": (SANDBOXED / "harness.py").read_bytes()},
                json.dumps(for_caller).encode(),
                self.limits,
                roots=self._roots,
                pass_fds=(calls_in, answers_out),
            )
        finally:
            for descriptor in (calls_out, calls_in, answers_out, answers_in):
                os.close(descriptor)
        # The caller ends when the callee does. The callee ends when nobody calls any more, or has other plans.
        ended = caller.wait()
        return ended, callee.wait(math.inf if ended.exit_code == CALLEE_DIED else PATIENCE_SECONDS)


@functools.lru_cache(maxsize=256)  # the responses to one problem come together
def _if_python(text: str) -> str:
    try:
        ast.parse(text)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return ""
    return text


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1].strip()[:200] if lines else ""


def _start(output: bytes) -> str:
    text = output[:100].decode("utf-8", "replace").strip()
    return text if len(output) <= 60 else text[:60] + "..."


def _resident_mb() -> float:
    """The most that this process has had resident; getrusage would count what started it, too."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) / 1024
