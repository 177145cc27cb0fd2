"""The resource limits of a sandboxed run, and what sets them."""

import math
import resource
from dataclasses import dataclass

OPEN_FILES = 128
ADDRESS_SPACE_MARGIN_MB = 1024  # on top of the memory limit: arenas and libraries that are reserved but never used
MAX_THREAD_STACKS = 16  # threads whose stacks of full size fit into the address space
MEGABYTE = 2**20
# Wall-clock time, as a multiple of the CPU time and for starting: programs share the cores with other work.
WALL_FACTOR, WALL_START_SECONDS = 3.0, 3.0
# Larger limits in records (1e30 seconds, memory in bytes) mean these: no problem needs more, and one response
# must not hold up the others or take the machine's memory.
MAX_CPU_SECONDS, MAX_MEMORY_MB = 120.0, 8192.0
MAX_NAME_BYTES = 255  # of a file
FILE_BLOCK_BYTES = 512  # the unit of `ulimit -f` (POSIX)
STARTED = "s"  # what a run reports right before it becomes the program


@dataclass(frozen=True)
class Limits:
    """Of one run.

    CPU time, memory and the number of processes hold for all processes of the run together, as far as that can be
    measured (sandbox.py); stack and file size for each process.

    `memory_mb`: of memory in use. Each process is also limited to an address space that leaves room for what is
    reserved but never used; with `address_space=False` (JVM, Go), which reserve more, it is not.
    """

    cpu_seconds: float
    wall_seconds: float
    memory_mb: float
    output_bytes: int  # of standard output, and of every file written
    processes: int  # and threads
    address_space: bool = True
    stack_mb: float = 256  # as on Codeforces; threads in C and C++ reserve as much


def wall_seconds(cpu_seconds: float) -> float:
    """The wall-clock limit that goes with a limit of CPU time."""
    return WALL_FACTOR * cpu_seconds + WALL_START_SECONDS


def resource_limits(limits: Limits) -> dict[int, int]:
    """The limits that the launcher sets before it starts a run, whose every process inherits them."""
    stack_mb = min(limits.stack_mb, limits.memory_mb)
    values = {
        resource.RLIMIT_CPU: math.ceil(limits.cpu_seconds),
        resource.RLIMIT_NOFILE: OPEN_FILES,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_STACK: int(stack_mb * MEGABYTE),
    }
    if limits.address_space:
        reserved_mb = ADDRESS_SPACE_MARGIN_MB + min(limits.processes, MAX_THREAD_STACKS) * stack_mb
        values[resource.RLIMIT_AS] = int((limits.memory_mb + reserved_mb) * MEGABYTE)
    else:
        values[resource.RLIMIT_DATA] = int((limits.memory_mb + ADDRESS_SPACE_MARGIN_MB) * MEGABYTE)
    return {number: _within_hard_limit(number, value) for number, value in values.items()}


def starter(limits: Limits, status: int, count_processes: bool) -> list[str]:
    """The prefix of a program's command: it sets the limits that would hinder the sandbox itself, reports STARTED
    to the descriptor `status` (at most 9), closes that, and becomes the program.

    `count_processes`: False where the run shares our user, all of whose processes would count.
    """
    size = _within_hard_limit(resource.RLIMIT_FSIZE, limits.output_bytes)
    steps = [f"ulimit -f {size // FILE_BLOCK_BYTES}"]
    if count_processes:
        number = _within_hard_limit(resource.RLIMIT_NPROC, limits.processes)
        steps.append(f"{{ ulimit -p {number} 2>/dev/null || ulimit -u {number}; }}")  # dash; bash
    steps += [f"printf {STARTED} >&{status}", f"exec {status}>&-", 'exec "$@"']
    return ["/bin/sh", "-c", " && ".join(steps), "sh"]


def _within_hard_limit(number: int, value: int) -> int:
    hard_limit = resource.getrlimit(number)[1]  # only root can raise it
    return value if hard_limit == resource.RLIM_INFINITY else min(value, hard_limit)
