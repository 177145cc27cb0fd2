"""The processes that start runs (launcher.py), kept for the next run."""

import marshal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from srt.verifiers.code.sandbox.cgroup import Cgroup, CgroupParent
from srt.verifiers.code.sandbox.launcher import MESSAGE_BYTES

SCRIPT = Path(__file__).with_name("launcher.py")
IDLE_SECONDS = 2.0


class Launcher:
    """One process that starts one run at a time, in a control group of its own when `groups` is given."""

    def __init__(self, groups: CgroupParent | None):
        self.cgroup: Cgroup | None = groups.new_group() if groups else None
        self.connection, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        python = getattr(sys, "_base_executable", sys.executable)
        arguments = [str(other.fileno()), *(self.cgroup.folders_and_parents() if self.cgroup else [])]
        self._process = subprocess.Popen(
            [python, "-I", "-S", "-E", str(SCRIPT), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={},
            pass_fds=[other.fileno()],
            start_new_session=True,  # Ctrl-C is ours to handle
        )
        other.close()
        self.pid = self._process.pid
        if self.cgroup:
            self.cgroup.add(self.pid)

    def start(
        self,
        argv: Sequence[str],
        environment: Mapping[str, str],
        folder: str,
        limits: Mapping[int, int],
        descriptors: Mapping[int, int],
    ) -> int:
        """Start a run; its process id. Raises OSError.

        `limits`: number of a resource limit -> value; `descriptors`: number in the run -> descriptor here.
        """
        message = marshal.dumps((list(argv), dict(environment), folder, dict(limits), list(descriptors)))
        socket.send_fds(self.connection, [message], list(descriptors.values()))
        answer = self.connection.recv(MESSAGE_BYTES)
        if not answer:
            raise ConnectionResetError("the process that starts programs has died")
        return marshal.loads(answer)

    def close(self) -> None:
        self.connection.close()  # this ends the process
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self.cgroup:
            self.cgroup.close()


class LauncherPool:
    """Launchers for the next runs; thread-safe. One that has been idle for IDLE_SECONDS is ended."""

    def __init__(self, groups: CgroupParent | None):
        self._groups = groups
        self._idle: list[tuple[float, Launcher]] = []  # with the time since when, the longest idle first
        self._changed = threading.Condition()
        self._has_reaper = False

    def acquire(self) -> Launcher:
        with self._changed:
            if self._idle:
                return self._idle.pop()[1]
        return Launcher(self._groups)

    def release(self, launcher: Launcher, reusable: bool) -> None:
        """`reusable`: False for one that does not answer any more."""
        if not reusable:
            launcher.close()
            return
        with self._changed:
            self._idle.append((time.monotonic(), launcher))
            if not self._has_reaper:
                self._has_reaper = True
                threading.Thread(target=self._end_idle_ones, daemon=True).start()

    def close(self) -> None:
        with self._changed:
            idle, self._idle = self._idle, []
            self._changed.notify_all()
        for _, launcher in idle:
            launcher.close()

    def _end_idle_ones(self) -> None:
        while True:
            with self._changed:
                if not self._idle:
                    self._has_reaper = False
                    return
                seconds = self._idle[0][0] + IDLE_SECONDS - time.monotonic()
                if seconds > 0:
                    self._changed.wait(seconds)
                    continue
                launcher = self._idle.pop(0)[1]
            launcher.close()
