"""What the processes of a run use together, from /proc: for runs without a control group.

A sample adds up the processes that are alive, the CPU time of the children that they waited for, and the files of
their /tmp, which is in memory. It misses processes that begin and end between two samples without being waited
for, and memory that no process maps, most of which is denied (seccomp.py).

Source: proc_pid_stat(5), proc_pid_smaps_rollup and /proc/PID/task/TID/children in the kernel's documentation.
"""

import os
from dataclasses import dataclass

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_FILE_BYTES = 1024  # of the kernel's memory for a file in memory, even an empty one
_MAX_PROCESSES = 4096  # of a run, in one sample


@dataclass(frozen=True)
class Usage:
    cpu_seconds: float = 0.0
    memory_mb: float = 0.0


def usage(pid: int) -> Usage:
    """Of the process and all of its descendants, now."""
    cpu_seconds, resident = 0.0, 0
    processes = descendants(pid)
    for process in processes:
        try:
            with open(f"/proc/{process}/stat", "rb") as file:
                fields = file.read().rpartition(b")")[2].split()  # the name before may hold anything
        except OSError:  # it has ended
            continue
        cpu_seconds += sum(map(int, fields[11:15])) / _TICKS  # its own and its children's, user and system
        resident += int(fields[21]) * _PAGE
    return Usage(cpu_seconds, resident / 2**20)


def proportional_memory_mb(pid: int, files_mb: float = 0.0) -> float:
    """Memory of the process and its descendants, pages that several share counted once; slower than `usage`.

    `files_mb`: of files in memory, which count whether they are mapped or not.
    """
    private_kb = shared_kb = 0
    for process in descendants(pid):
        kilobytes = _proportional_kb(process)
        shared_kb += kilobytes.get(b"Pss_Shmem:", 0)
        private_kb += kilobytes.get(b"Pss:", 0) - kilobytes.get(b"Pss_Shmem:", 0)
    return private_kb / 1024 + max(shared_kb / 1024, files_mb)


def files_mb(pid: int, folder: str) -> float:
    """What the file system in memory takes that the process's first descendant has at `folder`."""
    for process in descendants(pid)[1:2]:
        try:
            system = os.statvfs(f"/proc/{process}/root{folder}")
        except OSError:  # it has ended, or is not ours to look at
            continue
        num_files = system.f_files - system.f_ffree
        return ((system.f_blocks - system.f_bfree) * system.f_frsize + num_files * _FILE_BYTES) / 2**20
    return 0.0


def waited_seconds(pid: int) -> float:
    """How long the process and its descendants that are alive were ready to run, but other work had the CPUs."""
    return sum(map(_run_delay, descendants(pid)))


def descendants(pid: int) -> list[int]:
    """The process and its descendants that are alive."""
    found = [pid]
    for process in found:  # grows on the way
        if len(found) > _MAX_PROCESSES:
            break
        try:
            for thread in os.listdir(f"/proc/{process}/task"):
                with open(f"/proc/{process}/task/{thread}/children", "rb") as file:
                    found += map(int, file.read().split())
        except OSError:  # it has ended
            continue
    return found


def _proportional_kb(pid: int) -> dict[bytes, int]:
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
            lines = (line.split() for line in file if line.startswith(b"Pss"))
            return {parts[0]: int(parts[1]) for parts in lines}
    except OSError:  # it has ended, or is not ours to look at
        return {}


def _run_delay(pid: int) -> float:
    try:
        with open(f"/proc/{pid}/schedstat", "rb") as file:
            return int(file.read().split()[1]) / 1e9
    except OSError:  # it has ended, or the kernel does not count this
        return 0.0
