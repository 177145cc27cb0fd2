"""How a run failed, in words: a limit that it exceeded, or a crash; or, our failure, that it never started."""

import re

from srt.verifiers.code.machine import KILLED
from srt.verifiers.code.sandbox.limits import Limits
from srt.verifiers.code.sandbox.process import NOT_STARTED, RunResult
from srt.verifiers.types import VerifierError

STARTUP_CPU_SECONDS = 0.05  # of CPU time on top of the limit: what the sandbox itself uses
OUT_OF_MEMORY = ("MemoryError", "bad_alloc", "OutOfMemoryError", "memory allocation of", "out of memory")
# What the commands say that lead to the program (bubblewrap.py) when they fail, as all of a run's messages.
_START_FAILURE = re.compile(r"(?:bwrap|setpriv|prlimit|(?:/bin/)?sh: \d+): [^\n]*(?:\nbwrap: [^\n]*)?\s*")


def exceeded_limit(result: RunResult, limits: Limits) -> str | None:
    """The limit that a run exceeded, or None."""
    allowed_seconds = limits.cpu_seconds - STARTUP_CPU_SECONDS
    if result.memory_limit_hit:
        return f"memory limit ({limits.memory_mb:g} MB allowed)"
    if result.memory_mb > limits.memory_mb:
        return f"memory limit ({result.memory_mb:.0f} MB used, {limits.memory_mb:g} MB allowed)"
    if result.output_limit_hit:
        return f"output limit ({limits.output_bytes >> 20} MiB)"
    # A program that the limit killed has used it up, give or take the kernel's clock resolution.
    killed_at_limit = result.exit_code == KILLED and result.cpu_seconds > 0.95 * allowed_seconds
    if result.cpu_seconds > limits.cpu_seconds or killed_at_limit:
        return f"time limit ({result.cpu_seconds:.2f} s of CPU time used, {allowed_seconds:g} s allowed)"
    if result.timed_out:
        return f"time limit (wall-clock limit: {limits.wall_seconds:g} s)"
    if result.exit_code and any(words in result.stderr for words in OUT_OF_MEMORY):
        return f"memory limit ({limits.memory_mb:g} MB allowed): {last_line(result.stderr)}"
    return None


def run_failure(result: RunResult, limits: Limits, started: bool = False) -> str | None:
    """A limit that was exceeded or a crash; None for a run that ended on its own with exit code 0.

    Raises VerifierError when the machine ran short of memory or processes, and when the program was not even
    started, unless it is known that it was.
    """
    check_resources(result)
    if result.exit_code and not result.stdout and not started:
        check_started(result.stderr)
    if (failure := exceeded_limit(result, limits)) or not result.exit_code:
        return failure
    return f"runtime error (exit code {result.exit_code}): {last_line(result.stderr)}".removesuffix(": ")


def check_resources(result: RunResult) -> None:
    """Raises VerifierError when the machine, not the run's own limits, denied it memory or processes."""
    if result.machine_out_of_memory:
        raise VerifierError("the machine ran out of memory while a program ran", "no memory left")
    if result.machine_out_of_processes:
        raise VerifierError("the machine allowed no more processes while a program ran", "no processes left")


def check_started(messages: str) -> None:
    """Raises VerifierError when `messages`, all that a failed run said, are a sandbox's that did not start."""
    if _START_FAILURE.fullmatch(messages.strip()):
        raise VerifierError(f"the sandbox did not start: {last_line(messages)}", NOT_STARTED)


def last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1].strip()[:200] if lines else ""
