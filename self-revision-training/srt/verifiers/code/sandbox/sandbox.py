"""Runs programs that a model wrote, which are treated as hostile.

CODE_SANDBOX=bwrap (bubblewrap) isolates every single run:
- files: a program sees only /usr, its language's folder and a fresh /tmp. /tmp lives in memory, is limited in size
  and disappears with the run; everything else is read-only. No home folder, none of our files, no files of other
  programs.
- network: a namespace without any interface except loopback; the machine's network is out of reach. Each run has
  its own, unless the judge has given up the network itself (`unshare_network`): then all runs share the judge's.
- processes: a PID namespace. When the program ends or times out, every descendant is killed, including those in
  the background; a program cannot see or signal other processes.
- environment: only the variables set here.
- privileges: started by root, programs run under a user ID that nothing else uses, without capabilities and with
  no way to gain any. Started by anyone else, they run as that user in their own user namespace.
- keys: each run has a session keyring of its own, which is empty.
- system calls: a filter (seccomp.py) denies those that no solution needs: keys, tracing and other processes'
  memory, io_uring, userfaultfd, perf_event_open, bpf, new namespaces, mounts, modules, clocks, file handles; and
  sockets other than Unix, IPv4, IPv6 and netlink.
- limits: per process, address space, file size, open files, stack, no core dumps; for the whole run, wall-clock
  time, standard output, the number of processes and threads, and, depending on the machine:
  - with control groups (cgroup.py): CPU time of all processes, and all the memory that they make the kernel hold
    (heaps, /tmp, memfd, System V segments, socket buffers).
  - without them: CPU time of all processes that are alive every tenth of a second or that were waited for, and
    their resident memory and the files in /tmp at those times (accounting.py). The filter denies other memory
    that no process maps: memfd, System V, shared anonymous memory, sockets other than pairs, larger buffers of
    pipes and pairs. Missed: those buffers (at most 27 MB per process with the kernel's default sizes, and once
    that for pairs that are on their way from process to process), CPU time of processes that nobody waits for
    and that live for less than a tenth of a second, and peaks of several processes together between two looks.

`Sandbox.guarantees` says which of these hold on this machine.

Not covered: kernel bugs in the system calls that remain; what /proc reveals about the machine (CPUs, memory and
load, but not its processes); timing.

CODE_SANDBOX=rlimits provides the limits, a session keyring, the clean environment and a fresh work folder, and
ends every process that the program leaves behind. It does NOT keep a program from reading and writing whatever
you can read and write, using the network, signaling your other processes, leaving System V memory behind, or,
without control groups, starting any number of processes. It is meant for machines where bubblewrap cannot work
and you trust the programs as much as your own.
"""

import ctypes
import itertools
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from srt.common.errors import UserError
from srt.verifiers.code.sandbox.bubblewrap import BOX, MIN_TMP_BYTES, TMP_BYTES, Bubblewrap
from srt.verifiers.code.sandbox.cgroup import CgroupError, CgroupParent
from srt.verifiers.code.sandbox.launchers import Launcher, LauncherPool
from srt.verifiers.code.sandbox.limits import MEGABYTE, Limits, resource_limits, starter
from srt.verifiers.code.sandbox.process import NOT_STARTED, RunHandle, RunResult, memfd, output_pipe, remove_tree
from srt.verifiers.code.sandbox.seccomp import filter_program
from srt.verifiers.types import VerifierError

ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "LANG": "C.UTF-8",
    "TMPDIR": "/tmp",
    "PYTHONHASHSEED": "0",
    "PYTHONINTMAXSTRDIGITS": "0",  # no limit, as in Python before 3.11 and in the runner of open-r1/codeforces
}
CLONE_NEWNET = 0x40000000


class Sandbox:
    """Starts programs; thread-safe.

    `kind`: "bwrap" or "rlimits". `roots`: folders outside /usr that programs may read: the compilers'.
    `has_network`: False when this process has given up the network. `use_cgroups`: whether to try to. Raises
    UserError when the sandbox does not work on this machine.
    """

    def __init__(self, kind: str, roots: Iterable[Path] = (), has_network: bool = True, use_cgroups: bool = True):
        self.kind = kind
        self._bubblewrap = Bubblewrap(roots, has_network) if kind == "bwrap" else None
        if shutil.which("setpriv") is None:
            raise UserError("MODE=code: setpriv is missing; install util-linux")
        groups, self._no_cgroups = None, "not tried"
        if use_cgroups:
            try:
                groups, self._no_cgroups = CgroupParent(), ""
            except CgroupError as error:
                self._no_cgroups = str(error)
        self._cgroup_version = groups.version if groups else 0
        self._launchers = LauncherPool(groups)
        weakref.finalize(self, self._launchers.close)
        self._filter = filter_program(allow_unmapped_memory=groups is not None) if self._bubblewrap else None
        result = self._probe()
        if self._filter and not _works(result):  # is the filter to blame?
            self._filter = None
            result = self._probe()
        if not _works(result):
            error = (result.stderr.strip().splitlines() or [f"exit code {result.exit_code}"])[-1]
            raise UserError(f"MODE=code: the sandbox ({kind}) does not work here ({error}); {_advice(kind)}")

    def guarantees(self) -> str:
        """What holds on this machine, in one line."""
        if self._bubblewrap:
            parts = ["files, processes and network isolated", "keyring per run"]
            parts.append("system call filter" if self._filter else "NO system call filter (not supported here)")
        else:
            parts = ["NO isolation: programs can read your files and use the network", "keyring per run"]
        if self._cgroup_version:
            parts.append(
                f"memory, CPU time and processes limited over all processes (cgroup v{self._cgroup_version})"
            )
        else:
            parts.append(f"memory and CPU time of all processes sampled, no control groups ({self._no_cgroups})")
        return f"CODE_SANDBOX={self.kind}: {'; '.join(parts)}"

    def run(
        self,
        command: Sequence[str],
        files: Mapping[str, bytes],
        stdin: bytes,
        limits: Limits,
        work_files: Mapping[str, bytes] | None = None,
        roots: Iterable[Path] | None = None,
    ) -> RunResult:
        """Start `command` (see `start`) and wait until it ends or reaches its wall-clock limit."""
        return self._start(command, files, stdin, limits, work_files or {}, roots, ()).wait()

    def start(
        self,
        command: Sequence[str],
        files: Mapping[str, bytes],
        stdin: bytes,
        limits: Limits,
        work_files: Mapping[str, bytes] | None = None,
        roots: Iterable[Path] | None = None,
        pass_fds: Sequence[int] = (),
    ) -> RunHandle:
        """Start `command`; `{box}` in it becomes the folder of `files`, which are read-only and executable.

        `work_files` are put in the folder where it starts. `roots`: the folders outside /usr that it needs;
        None: all of the sandbox's, and the compilers' settings. `pass_fds`: descriptors that it inherits, by the
        same numbers.
        """
        handle = self._start(command, files, stdin, limits, work_files or {}, roots, pass_fds)
        handle.follow()
        return handle

    def _start(
        self,
        command: Sequence[str],
        files: Mapping[str, bytes],
        stdin: bytes,
        limits: Limits,
        work_files: Mapping[str, bytes],
        roots: Iterable[Path] | None,
        pass_fds: Sequence[int],
    ) -> RunHandle:
        num_bytes = sum(map(len, [*files.values(), *work_files.values()]))
        stdout, stdout_in = output_pipe()
        stderr, stderr_in = output_pipe()
        status, status_in = os.pipe()
        # Numbers in the run. A shell's redirections take one digit.
        status_number = next(number for number in range(3, 10) if number not in pass_fds)
        free_numbers = (number for number in itertools.count(10) if number not in pass_fds)
        inputs = {0: memfd(stdin)}

        def pass_on(contents: Mapping[str, bytes]) -> dict[str, int]:
            numbers = dict(zip(contents, free_numbers, strict=False))
            inputs.update({numbers[name]: memfd(content) for name, content in contents.items()})
            return numbers

        folder = None
        if self._bubblewrap:
            seccomp = pass_on({"filter": self._filter})["filter"] if self._filter else None
            tmp_bytes = _tmp_bytes(limits) + num_bytes
            argv = self._bubblewrap.command(pass_on(files), pass_on(work_files), roots, tmp_bytes, seccomp)
            box, cwd, environment = BOX, "/", ENVIRONMENT
        else:
            argv, folder = [], tempfile.mkdtemp(prefix="srt-judge-")
            for name, content in {**files, **work_files}.items():
                path = Path(folder, name)
                path.write_bytes(content)
                path.chmod(0o755)
            box, cwd, environment = folder, folder, ENVIRONMENT | {"TMPDIR": folder}
        # Without a user of its own, a program's process limit would count all of our processes.
        argv += starter(limits, status_number, count_processes=self._bubblewrap is not None)
        argv += [part.replace("{box}", box) for part in command]
        descriptors = inputs | {1: stdout_in, 2: stderr_in, status_number: status_in}
        descriptors |= {descriptor: descriptor for descriptor in pass_fds}
        try:
            launcher, pid = self._launch(argv, cwd, environment, descriptors, limits, num_bytes)
        except OSError as error:
            for descriptor in (stdout, stderr, status):
                os.close(descriptor)
            if folder:
                remove_tree(folder)
            raise VerifierError(f"a program could not be started ({error})", NOT_STARTED) from error
        finally:
            for descriptor in (*inputs.values(), stdout_in, stderr_in, status_in):
                os.close(descriptor)
        work_mb = sum(map(len, work_files.values())) / MEGABYTE
        pipes = (stdout, stderr, status)
        return RunHandle(launcher, pid, pipes, limits, work_mb, folder, self._launchers.release)

    def _launch(
        self,
        argv: Sequence[str],
        folder: str,
        environment: Mapping[str, str],
        descriptors: Mapping[int, int],
        limits: Limits,
        num_bytes: int,
    ) -> tuple[Launcher, int]:
        """A launcher with a started run, and the run's process id; a launcher that has died gets a successor."""
        for attempts_left in (1, 0):
            launcher = self._launchers.acquire()
            try:
                if launcher.cgroup:
                    launcher.cgroup.begin()
                    launcher.cgroup.set_limits(limits.memory_mb + num_bytes / MEGABYTE, limits.processes)
                return launcher, launcher.start(argv, environment, folder, resource_limits(limits), descriptors)
            except OSError:
                self._launchers.release(launcher, reusable=False)
                if not attempts_left:
                    raise
        raise AssertionError("unreachable")

    def _probe(self) -> RunResult:
        limits = Limits(cpu_seconds=5, wall_seconds=20, memory_mb=256, output_bytes=4096, processes=16)
        return self.run(["/bin/sh", "-c", "cat; cat {box}/file"], {"file": b"two"}, b"one ", limits)


def _works(result: RunResult) -> bool:
    return (result.exit_code, result.stdout) == (0, b"one two")


def _tmp_bytes(limits: Limits) -> int:
    return int(min(TMP_BYTES, max(MIN_TMP_BYTES, limits.memory_mb * MEGABYTE / 2)))


def unshare_network() -> bool:
    """Cut this thread, and all that it starts from now on, off the network for good; False if not permitted.

    One namespace without any interface serves all programs, which saves creating one for every run.
    """
    return os.geteuid() == 0 and ctypes.CDLL(None).unshare(CLONE_NEWNET) == 0


def _advice(kind: str) -> str:
    if kind == "rlimits":
        return "programs cannot be started with limits"
    return (
        "in a container it needs permission to create namespaces; or set CODE_SANDBOX=rlimits, which lets "
        "programs read your files and use the network"
    )
