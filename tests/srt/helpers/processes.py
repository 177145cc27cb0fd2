"""Looks at the processes of this machine."""

import os
import time
from pathlib import Path


def descendants():
    """The processes started by this one, directly or not: (pid, command line) pairs."""
    parents, commands = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            stat = (folder / "stat").read_text()
            commands[int(folder.name)] = (folder / "cmdline").read_text().replace("\0", " ")
        except OSError:  # it has just ended
            continue
        parents[int(folder.name)] = int(stat.rsplit(")", 1)[1].split()[1])
    ours = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in ours} - ours:
        ours |= more
    return {(pid, commands.get(pid, "")) for pid in ours - {os.getpid()}}


def is_running(pid):
    """Whether the process exists and is not a zombie."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):  # the latter where it ends between open and read
        return False


def still_running(pids, seconds=30):
    """The processes that have not ended after `seconds`; waits no longer than they live.

    A killed process closes its pipes and is reported to its parent before it leaves the process
    table, so that a look straight after either may still find it running.
    """
    deadline = time.monotonic() + seconds
    while (left := {pid for pid in pids if is_running(pid)}) and time.monotonic() < deadline:
        time.sleep(0.01)
    return left
