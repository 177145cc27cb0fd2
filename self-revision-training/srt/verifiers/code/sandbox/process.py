"""A started run: following it, killing it, measuring it.

The launcher (launcher.py) starts it and waits for it. Standard output and standard error are pipes, which we read
until the run has ended, not until they are closed: no process can hold them open and keep the judge waiting.
What a program reads is anonymous memory (memfd), so that nothing is left on disk when the judge itself is killed.
"""

import marshal
import math
import os
import select
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from srt.verifiers.code.sandbox.accounting import (
    Usage,
    files_mb,
    proportional_memory_mb,
    usage,
    waited_seconds,
)
from srt.verifiers.code.sandbox.bubblewrap import WORK_FOLDER
from srt.verifiers.code.sandbox.cgroup import Cgroup
from srt.verifiers.code.sandbox.launcher import KILL, MESSAGE_BYTES
from srt.verifiers.code.sandbox.launchers import Launcher
from srt.verifiers.code.sandbox.limits import STARTED, Limits
from srt.verifiers.types import VerifierError

STDERR_BYTES = 4096  # kept from its end
READ_BYTES = 2**18  # at a time
MAX_WAIT_FACTOR = 3.0  # of the wall-clock limit, by which it is extended on a busy machine
SAMPLE_SECONDS = 0.1  # between two looks at what a run uses
KILLED_STATUS = 9  # as wait() reports a process that SIGKILL ended
NOT_STARTED = "a sandbox that did not start"  # the kind of its VerifierError
LAUNCHER_KILLED = "a launcher that was killed"  # likewise


@dataclass(frozen=True)
class RunResult:
    """How a run ended.

    `exit_code`: 128 + the signal's number when a signal ended it. `cpu_seconds`: of all processes of the run.
    `memory_mb`: the peak resident memory of its largest process, or more where all of them were seen to use more.
    `timed_out`: it was killed at the wall-clock limit. `output_limit_hit`: its output reached the limit and is
    truncated. `memory_limit_hit`: the kernel killed one of its processes at the limit of its control group.
    `machine_out_of_memory`: the kernel did so because the machine, or a group around ours, had no memory left.
    `machine_out_of_processes`: a group around ours refused a process. `started`: whether the program was: what a
    run that did not start says comes from the sandbox. The program cannot change it: the descriptor on which it
    is reported is closed, in all processes that the program can reach, before the program begins.
    """

    exit_code: int
    cpu_seconds: float
    memory_mb: float
    stdout: bytes
    stderr: str
    timed_out: bool
    output_limit_hit: bool
    memory_limit_hit: bool = False
    machine_out_of_memory: bool = False
    machine_out_of_processes: bool = False
    started: bool = True


class RunHandle:
    """A started run. `wait()` must be called once: it ends the run one way or another, and cleans up.

    `pipes`: the ends to read from of standard output, standard error, and of the one that `limits.starter`
    reports to; closed at the end. `work_mb`: of our files in its work folder. `folder`: deleted at the end.
    `release` is called with the launcher, and whether it can start another run.
    """

    def __init__(
        self,
        launcher: Launcher,
        pid: int,
        pipes: tuple[int, int, int],
        limits: Limits,
        work_mb: float,
        folder: str | None,
        release: Callable[[Launcher, bool], None],
    ):
        self._launcher, self._release = launcher, release
        self._limits, self._work_mb, self._folder = limits, work_mb, folder
        self._started = time.monotonic()
        self._deadline = self._started + limits.wall_seconds
        self._abandoned = False
        self._connection = launcher.connection
        self._pid = pid
        self._stdout, self._stderr, self._status = pipes
        self._output: dict[int, bytearray] = {self._stdout: bytearray(), self._stderr: bytearray()}
        self._num_read = dict.fromkeys(self._output, 0)
        self._timed_out = self._output_limit_hit = False
        self._sampled = Usage()
        self._result: RunResult | BaseException | None = None
        self._thread: threading.Thread | None = None

    def follow(self) -> None:
        """Follow the run in the background, so that several can be waited for one after another."""
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def wait(self, timeout: float = math.inf) -> RunResult:
        """Wait until the run ends; it is killed at its wall-clock limit or after `timeout` seconds."""
        if timeout < math.inf:
            self._deadline, self._abandoned = min(self._deadline, time.monotonic() + timeout), True
        if self._thread:
            self._thread.join()
        else:
            self._follow()
        if isinstance(self._result, BaseException):
            raise self._result
        assert self._result is not None
        return self._result

    def _follow(self) -> None:
        reusable = False
        try:
            ended = self._until_end()
            reusable = ended is not None
            if ended is None and self._folder is None:  # without bubblewrap, the program may have done it
                raise VerifierError("the process that starts programs was killed", LAUNCHER_KILLED)
            self._result = self._measured(*(ended or (KILLED_STATUS, 0.0, 0)))
        except BaseException as error:
            self._result = error
        finally:
            for descriptor in (*self._output, self._status):
                os.close(descriptor)
            self._release(self._launcher, reusable)
            if self._folder:
                remove_tree(self._folder)

    def _until_end(self) -> tuple[int, float, int] | None:
        """What the launcher reports of the run (launcher.py); None when the launcher itself was killed."""
        poll = select.poll()
        for descriptor in (self._connection.fileno(), *self._output):
            poll.register(descriptor, select.POLLIN)
        next_sample = time.monotonic() + SAMPLE_SECONDS
        killed = False
        while True:
            now = time.monotonic()
            if now >= self._deadline and not killed and not self._was_kept_waiting(now):
                self._timed_out = killed = self._kill()
            wake_at = next_sample if killed else min(next_sample, self._deadline)
            ready = [descriptor for descriptor, _ in poll.poll(max(0.0, wake_at - now) * 1000 + 1)]
            for descriptor in self._output:
                if descriptor in ready and not self._read(descriptor):
                    poll.unregister(descriptor)
            if self._connection.fileno() in ready:
                return self._received()
            if time.monotonic() >= next_sample:
                next_sample = time.monotonic() + SAMPLE_SECONDS
                self._sample()
                killed = killed or (self._uses_too_much() and self._kill())
            if self._output_limit_hit and not killed:
                killed = self._kill()

    def _received(self) -> tuple[int, float, int] | None:
        try:
            message = self._connection.recv(MESSAGE_BYTES)
        except ConnectionError:
            return None
        return marshal.loads(message) if message else None

    def _read(self, descriptor: int) -> bool:
        """Read once from a pipe; False at its end."""
        try:
            part = os.read(descriptor, READ_BYTES)
        except BlockingIOError:
            return True
        self._num_read[descriptor] += len(part)
        output = self._output[descriptor]
        if descriptor == self._stdout:
            output += part[: self._limits.output_bytes - len(output)]
        else:
            output += part
            del output[:-STDERR_BYTES]
        if self._num_read[descriptor] >= self._limits.output_bytes:
            self._output_limit_hit = True
        return bool(part)

    def _read_rest(self) -> None:
        """What the pipes hold when the run has ended; no more, in case something else still writes."""
        for descriptor in self._output:
            os.set_blocking(descriptor, False)
            num_left = self._limits.output_bytes + READ_BYTES
            while num_left > 0:
                before = self._num_read[descriptor]
                if not self._read(descriptor) or self._num_read[descriptor] == before:
                    break
                num_left -= self._num_read[descriptor] - before

    def _has_reported(self) -> bool:
        return bool(select.select([self._status], [], [], 0)[0])

    def _has_started(self) -> bool:
        os.set_blocking(self._status, False)
        try:
            return bool(os.read(self._status, len(STARTED)))
        except BlockingIOError:  # nothing was written, and a process that could was not ended yet
            return False

    def _was_kept_waiting(self, now: float) -> bool:
        """Move the deadline by the time for which other work had the CPUs, to be fair on a busy machine."""
        waited = min(waited_seconds(self._pid), MAX_WAIT_FACTOR * self._limits.wall_seconds)
        self._deadline = max(self._deadline, self._started + self._limits.wall_seconds + waited)
        return now < self._deadline and not self._abandoned

    def _kill(self) -> bool:
        if self._launcher.cgroup:
            self._launcher.cgroup.kill_others(keep=self._launcher.pid)
        try:
            self._connection.send(KILL)
        except OSError:
            pass  # the launcher has been killed, and the run with it
        return True

    def _sample(self) -> None:
        group = self._launcher.cgroup
        if group:
            self._sampled = Usage(group.cpu_seconds())
            return
        now = usage(self._pid)
        files = 0.0
        if self._folder is None and self._has_reported():  # the sandbox is complete
            files = max(0.0, files_mb(self._pid, WORK_FOLDER) - self._work_mb)
        memory_mb = now.memory_mb + files
        if memory_mb > self._limits.memory_mb:  # pages that several processes share were counted several times
            memory_mb = proportional_memory_mb(self._pid, files)
        self._sampled = Usage(
            max(self._sampled.cpu_seconds, now.cpu_seconds), max(self._sampled.memory_mb, memory_mb)
        )

    def _uses_too_much(self) -> bool:
        return (
            self._sampled.cpu_seconds > self._limits.cpu_seconds
            or self._sampled.memory_mb > self._limits.memory_mb
        )

    def _measured(self, status: int, cpu_seconds: float, peak_kb: int) -> RunResult:
        group: Cgroup | None = self._launcher.cgroup
        out_of_memory, out_of_processes = "", False
        if group:
            cpu_seconds = max(cpu_seconds, group.cpu_seconds())
            out_of_memory = group.out_of_memory()
            group.kill_others(keep=self._launcher.pid)
            out_of_processes = group.refused_processes()
        self._read_rest()
        code = os.waitstatus_to_exitcode(status)
        return RunResult(
            exit_code=code if code >= 0 else 128 - code,
            cpu_seconds=max(cpu_seconds, self._sampled.cpu_seconds),
            memory_mb=max(peak_kb / 1024, self._sampled.memory_mb),
            stdout=bytes(self._output[self._stdout]),
            stderr=self._output[self._stderr].decode("utf-8", "replace"),
            timed_out=self._timed_out,
            output_limit_hit=self._output_limit_hit,
            memory_limit_hit=out_of_memory == "limit",
            machine_out_of_memory=out_of_memory == "machine",
            machine_out_of_processes=out_of_processes,
            started=self._has_started(),
        )


def memfd(content: bytes = b"") -> int:
    """An anonymous file in memory that holds `content`, at its start."""
    descriptor = os.memfd_create("srt-judge")
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def remove_tree(folder: str) -> None:
    """Also with subfolders that may not be entered, or nested too deep for shutil.rmtree."""
    try:
        shutil.rmtree(folder)
    except (OSError, RecursionError):
        subprocess.run(["chmod", "-R", "u+rwx", folder], capture_output=True)
        subprocess.run(["rm", "-rf", folder], capture_output=True)


def output_pipe() -> tuple[int, int]:
    """(end to read, end to write) of a pipe that a program of another user may open again as /dev/stdout."""
    reading, writing = os.pipe()
    os.fchmod(writing, 0o222)  # not for reading, which would wait for ever
    return reading, writing
