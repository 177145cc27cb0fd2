"""A started run: waiting for it, killing it, measuring it.

Input, output and files of a program are anonymous memory (memfd), not pipes: no process can hold them open and
keep the judge waiting, and nothing is left on disk when the judge itself is killed.
"""

import math
import os
import shutil
import signal
import subprocess
import threading
import time
from dataclasses import dataclass

from srt.verifiers.code.limits import Limits

STDERR_BYTES = 4096  # read from its end


@dataclass(frozen=True)
class RunResult:
    """How a run ended.

    `exit_code`: 128 + the signal's number when a signal ended it. `memory_mb`: the peak resident memory of its
    largest process, and at least that of our process, from which it was forked. `timed_out`: it was killed at the
    wall-clock limit. `output_limit_hit`: its output reached the limit and is truncated.
    """

    exit_code: int
    cpu_seconds: float
    memory_mb: float
    stdout: bytes
    stderr: str
    timed_out: bool
    output_limit_hit: bool


class RunHandle:
    """A started run. `wait()` must be called once: it ends the run one way or another, and cleans up.

    `stdout`, `stderr`: memfds, closed by `wait`. `folder`: deleted by `wait`.
    """

    def __init__(
        self, process: subprocess.Popen[bytes], stdout: int, stderr: int, limits: Limits, folder: str | None
    ):
        self._process, self._stdout, self._stderr = process, stdout, stderr
        self._limits, self._folder = limits, folder
        self._deadline = time.monotonic() + limits.wall_seconds

    def wait(self, timeout: float = math.inf) -> RunResult:
        """Wait until the run ends; kill it at its wall-clock limit or after `timeout` seconds."""
        pid = self._process.pid
        timed_out = threading.Event()

        def kill() -> None:
            timed_out.set()
            self._kill_group()

        timer = threading.Timer(min(timeout, max(0.0, self._deadline - time.monotonic())), kill)
        timer.start()
        # The process stays a zombie, so that its pid cannot be reused and the timer kills nobody else.
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        timer.cancel()
        timer.join()
        self._kill_group()
        _, status, usage = os.wait4(pid, 0)
        code = os.waitstatus_to_exitcode(status)
        self._process.returncode = code  # Popen must not wait for a pid that may be another process's by now
        stdout_size = os.fstat(self._stdout).st_size
        stderr_start = max(0, os.fstat(self._stderr).st_size - STDERR_BYTES)
        result = RunResult(
            exit_code=code if code >= 0 else 128 - code,
            cpu_seconds=usage.ru_utime + usage.ru_stime,
            memory_mb=usage.ru_maxrss / 1024,
            stdout=os.pread(self._stdout, self._limits.output_bytes, 0),
            stderr=os.pread(self._stderr, STDERR_BYTES, stderr_start).decode("utf-8", "replace"),
            timed_out=timed_out.is_set(),
            output_limit_hit=stdout_size >= self._limits.output_bytes,
        )
        os.close(self._stdout)
        os.close(self._stderr)
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)
        return result

    def _kill_group(self) -> None:
        """The group contains bubblewrap, whose death ends the sandbox; without bubblewrap, the program itself."""
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # everything has already ended


def memfd(content: bytes = b"") -> int:
    """An anonymous file in memory that holds `content`, at its start."""
    descriptor = os.memfd_create("srt-judge")
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor
