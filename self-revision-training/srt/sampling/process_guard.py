"""Processes that must not outlive ours, however it ends."""

import contextlib
import subprocess
from collections.abc import Iterable

import psutil

# Reads process ids until its input ends, which happens when the process that holds the other end is gone.
_SCRIPT = 'while read -r pid; do pids="$pids $pid"; done; kill -9 $pids 2>/dev/null'


class ChildProcessGuard:
    """Kills what it watches as soon as this process is gone, even by kill -9.

    vLLM's engine processes do not notice that by themselves, and would keep the GPU's memory from the next start.
    """

    def __init__(self) -> None:
        # A session of its own, so that Ctrl-C does not end the guard first.
        self._shell = subprocess.Popen(
            ["sh", "-c", _SCRIPT], stdin=subprocess.PIPE, text=True, start_new_session=True
        )
        self._watched: set[int] = set()

    def watch(self, pids: Iterable[int]) -> None:
        for pid in set(pids) - self._watched:
            self._watched.add(pid)
            self._shell.stdin.write(f"{pid}\n")
            self._shell.stdin.flush()

    def kill_all(self) -> None:
        """At once, with the processes that they have started, which would say a lot if they outlived them."""
        for process in _with_descendants(self._watched):
            with contextlib.suppress(psutil.NoSuchProcess):  # it has ended by itself
                process.kill()
        self.dismiss()

    def dismiss(self) -> None:
        """From now on nothing is killed."""
        self._shell.kill()
        self._shell.stdin.close()
        self._shell.wait()


def _with_descendants(pids: Iterable[int]) -> list[psutil.Process]:
    found = []
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            found += [process, *process.children(recursive=True)]
    return found
