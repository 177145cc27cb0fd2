"""The resource limits of a sandboxed run, and the command that sets them."""

import math
import resource
from dataclasses import dataclass

OPEN_FILES = 128
ADDRESS_SPACE_MARGIN_MB = 1024  # on top of the memory limit: stacks and arenas that are reserved but never used
MEGABYTE = 2**20


@dataclass(frozen=True)
class Limits:
    """Of one run. CPU time, memory, stack and output size hold for each process, the others for the whole run.

    `memory_mb`: of resident memory, enforced by whoever reads `RunResult.memory_mb`. The hard limit is on the
    address space, ADDRESS_SPACE_MARGIN_MB above it; with `address_space=False` (JVM, Go) there is none.
    """

    cpu_seconds: float
    wall_seconds: float
    memory_mb: float
    output_bytes: int  # of every file written, standard output included
    processes: int  # and threads
    address_space: bool = True
    stack_mb: float = 256  # as on Codeforces; threads in C and C++ reserve as much


def prlimit_command(limits: Limits, count_processes: bool) -> list[str]:
    """The prefix of a command that sets the limits which every process of the run inherits.

    `count_processes`: False where the run shares our user, all of whose processes would count.
    """
    values = {
        "cpu": (resource.RLIMIT_CPU, math.ceil(limits.cpu_seconds)),
        "fsize": (resource.RLIMIT_FSIZE, limits.output_bytes),
        "nofile": (resource.RLIMIT_NOFILE, OPEN_FILES),
        "core": (resource.RLIMIT_CORE, 0),
        "stack": (resource.RLIMIT_STACK, int(min(limits.stack_mb, limits.memory_mb) * MEGABYTE)),
    }
    if limits.address_space:
        values["as"] = (resource.RLIMIT_AS, int((limits.memory_mb + ADDRESS_SPACE_MARGIN_MB) * MEGABYTE))
    if count_processes:
        values["nproc"] = (resource.RLIMIT_NPROC, limits.processes)
    command = ["prlimit"]
    for name, (number, value) in values.items():
        hard_limit = resource.getrlimit(number)[1]  # only root can raise it
        command.append(f"--{name}={value if hard_limit == resource.RLIM_INFINITY else min(value, hard_limit)}")
    return command
