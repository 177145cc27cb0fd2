"""Makes sure that child processes do not outlive this process, however it ends."""

import contextlib
import subprocess
import time
from collections.abc import Iterable

import psutil

# Reads process ids until end of file, which comes when the process at the other end of the pipe is gone.
_SCRIPT = 'while read -r pid; do pids="$pids $pid"; done; kill -9 $pids 2>/dev/null'
LAST_SECONDS = 60  # at most, that killed processes are waited for: the driver frees GPU memory when they end


class ChildProcessGuard:
    """Kills the watched processes as soon as this process is gone, even by kill -9.

    vLLM's engine processes would not notice, and would keep occupying the GPU memory that the next run needs.
    """

    def __init__(self) -> None:
        # In a new session, so that Ctrl-C does not end the guard first.
        self._shell = subprocess.Popen(
            ["sh", "-c", _SCRIPT], stdin=subprocess.PIPE, text=True, start_new_session=True
        )
        assert self._shell.stdin is not None  # since it is a PIPE
        self._pipe = self._shell.stdin
        self._watched: set[int] = set()

    def watch(self, pids: Iterable[int]) -> None:
        for pid in set(pids) - self._watched:
            self._watched.add(pid)
            self._pipe.write(f"{pid}\n")
            self._pipe.flush()

    def kill_all(self) -> None:
        """Kill them now, together with their descendants, which would otherwise log errors about their parents.

        Returns when they have ended, and with them their hold on the GPU memory that the next engine needs.
        """
        processes = _with_descendants(self._watched)
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):  # already ended
                process.kill()
        deadline = time.monotonic() + LAST_SECONDS
        while not all(map(_has_ended, processes)) and time.monotonic() < deadline:
            time.sleep(0.05)
        self.dismiss()

    def dismiss(self) -> None:
        """Stop watching: nothing is killed from now on."""
        self._shell.kill()
        self._pipe.close()
        self._shell.wait()


def _has_ended(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _with_descendants(pids: Iterable[int]) -> list[psutil.Process]:
    processes = []
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            processes += [process, *process.children(recursive=True)]
    return processes
