"""Whether the machine refused what a program needed: its failure is then ours, not the program's.

The kernel counts the processes that it killed for lack of memory, and those that a limit of our control group
refused (sandbox/refusals.py).
"""

from pathlib import Path
from typing import NamedTuple

from srt.verifiers.code.sandbox.refusals import ancestry, fields, num_refused
from srt.verifiers.types import VerifierError

LIMITS = ("memory limit", "time limit", "output limit")  # how reasons begin that are the program's doing
NO_PROCESSES, NO_MEMORY = "no processes left", "no memory left"  # kinds of VerifierError
KILLED = 128 + 9  # the exit code after SIGKILL
KILLED_BY_SOMEONE = f"runtime error (exit code {KILLED})"  # how the reason begins then


class Pressure(NamedTuple):
    """How often the machine has refused something.

    `oom_kills`: None where it does not say; then nobody can tell who killed a program, and the verdict stands: a
    program can kill itself.
    """

    oom_kills: int | None
    refused_processes: int


def pressure() -> Pressure:
    """The counters now; take them before a run, and compare afterwards."""
    return Pressure(_oom_kills(), sum(map(num_refused, ancestry())))


def check_machine(before: Pressure, failure: str) -> None:
    """Raises VerifierError when a run failed while the machine was short of what it needed.

    `before`: the counters before the run; `failure`: how it failed, in words.
    """
    if failure.startswith(LIMITS):
        return
    after = pressure()
    if after.refused_processes > before.refused_processes:
        raise VerifierError(f"the machine allows no more processes ({failure})", NO_PROCESSES)
    killed = failure.startswith(KILLED_BY_SOMEONE) or "Killed signal" in failure  # of a process of the compiler
    if killed and after.oom_kills != before.oom_kills:
        raise VerifierError(f"the machine ran out of memory ({failure})", NO_MEMORY)


def _oom_kills() -> int | None:
    try:
        return fields(Path("/proc/vmstat")).get("oom_kill")
    except OSError:
        return None
