"""How a run failed, in words: a limit that it exceeded, or a crash."""

from srt.verifiers.code.limits import Limits
from srt.verifiers.code.process import RunResult

STARTUP_CPU_SECONDS = 0.05  # of CPU time on top of the limit: what the sandbox itself uses
OUT_OF_MEMORY = ("MemoryError", "bad_alloc", "OutOfMemoryError", "memory allocation of", "out of memory")
KILLED = 128 + 9  # the exit code after SIGKILL


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
    """A limit that was exceeded or a crash; None for a run that ended on its own with exit code 0."""
    if (failure := exceeded_limit(result, limits)) or not result.exit_code:
        return failure
    return f"runtime error (exit code {result.exit_code}): {last_line(result.stderr)}".removesuffix(": ")


def last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1].strip()[:200] if lines else ""
