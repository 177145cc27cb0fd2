"""How a run failed, in words: a limit that it exceeded, or a crash; or, our failure, that it never started."""

import signal

from srt.verifiers.code.machine import KILLED, NO_MEMORY, NO_PROCESSES
from srt.verifiers.code.sandbox.limits import Limits
from srt.verifiers.code.sandbox.process import NOT_STARTED, RunResult
from srt.verifiers.types import VerifierError

STARTUP_CPU_SECONDS = 0.05  # of CPU time on top of the limit: what the sandbox itself uses
OUT_OF_MEMORY = ("MemoryError", "bad_alloc", "OutOfMemoryError", "memory allocation of", "out of memory")


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


def run_failure(result: RunResult, limits: Limits) -> str | None:
    """A limit that was exceeded or a crash; None for a run that ended on its own with exit code 0.

    Raises VerifierError; see `check_run`.
    """
    check_run(result)
    if (failure := exceeded_limit(result, limits)) or not result.exit_code:
        return failure
    words = last_line(result.stderr) or _signal_words(result.exit_code)
    return f"runtime error (exit code {result.exit_code}): {words}".removesuffix(": ")


def check_run(result: RunResult) -> None:
    """Raises VerifierError when a run's end says nothing about the program: when the machine, not the run's own
    limits, denied it memory or processes, and when the program was not even started.
    """
    if result.machine_out_of_memory:
        raise VerifierError("the machine ran out of memory while a program ran", NO_MEMORY)
    if result.machine_out_of_processes:
        raise VerifierError("the machine allowed no more processes while a program ran", NO_PROCESSES)
    if not result.started:
        words = last_line(result.stderr) or f"exit code {result.exit_code}"
        raise VerifierError(f"the sandbox did not start: {words}", NOT_STARTED)


def _signal_words(exit_code: int) -> str:
    """What shells say of a process that a signal ended: "Segmentation fault"."""
    number = exit_code - 128
    return signal.strsignal(number) or "" if number in signal.valid_signals() else ""


def last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1].strip()[:200] if lines else ""
