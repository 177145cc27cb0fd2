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
- limits per process: CPU time, address space, file size (standard output included), open files, no core dumps;
  and for the whole run: wall-clock time, number of processes and threads.

Not covered: kernel bugs (there is no system call filter); what /proc reveals about the machine (CPUs, memory and
load, but not its processes); the total memory of several processes (each may use the whole limit; only the machine
bounds the sum); the total CPU time of several processes, which only the wall-clock limit bounds.

CODE_SANDBOX=rlimits provides the limits per process, the clean environment and a fresh work folder, and kills
the process group at the end. It does NOT keep a program from reading and writing whatever you can read and
write, using the network, signaling your other processes, leaving background processes that left the group, or
starting any number of processes. It is meant for machines where bubblewrap cannot work and you trust the
programs as much as your own.
"""

import ctypes
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from srt.common.errors import UserError
from srt.verifiers.code.bubblewrap import BOX, Bubblewrap
from srt.verifiers.code.limits import Limits, prlimit_command
from srt.verifiers.code.process import RunHandle, RunResult, memfd

ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "TMPDIR": "/tmp", "PYTHONHASHSEED": "0"}
CLONE_NEWNET = 0x40000000


class Sandbox:
    """Starts programs; thread-safe.

    `kind`: "bwrap" or "rlimits". `roots`: folders outside /usr that programs may read: the compilers'.
    `has_network`: False when this process has given up the network. Raises UserError when the sandbox does not
    work on this machine.
    """

    def __init__(self, kind: str, roots: Iterable[Path] = (), has_network: bool = True):
        self.kind = kind
        self._bubblewrap = Bubblewrap(roots, has_network) if kind == "bwrap" else None
        for tool in ("prlimit", "setpriv"):
            if shutil.which(tool) is None:
                raise UserError(f"MODE=code: {tool} is missing; install util-linux")
        probe = Limits(cpu_seconds=5, wall_seconds=20, memory_mb=256, output_bytes=4096, processes=16)
        result = self.run(["/bin/sh", "-c", "cat; cat {box}/file"], {"file": b"two"}, b"one ", probe)
        if (result.exit_code, result.stdout) != (0, b"one two"):
            error = (result.stderr.strip().splitlines() or [f"exit code {result.exit_code}"])[-1]
            raise UserError(f"MODE=code: the sandbox ({kind}) does not work here ({error}); {_advice(kind)}")

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
        return self.start(command, files, stdin, limits, work_files, roots).wait()

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
        work_files = work_files or {}
        stdout, stderr = memfd(), memfd()
        inputs = [memfd(stdin)]
        folder = None
        if self._bubblewrap:
            box_fds = {name: memfd(content) for name, content in files.items()}
            work_fds = {name: memfd(content) for name, content in work_files.items()}
            inputs += [*box_fds.values(), *work_fds.values()]
            argv = self._bubblewrap.command(box_fds, work_fds, roots)
            box, cwd, environment = BOX, "/", ENVIRONMENT
        else:
            argv, folder = [], tempfile.mkdtemp(prefix="srt-judge-")
            for name, content in {**files, **work_files}.items():
                path = Path(folder, name)
                path.write_bytes(content)
                path.chmod(0o755)
            box, cwd, environment = folder, folder, ENVIRONMENT | {"TMPDIR": folder}
        # Without a user of its own, a program's process limit would count all of our processes.
        argv += prlimit_command(limits, count_processes=self._bubblewrap is not None)
        argv += [part.replace("{box}", box) for part in command]
        process = subprocess.Popen(
            argv,
            stdin=inputs[0],
            stdout=stdout,
            stderr=stderr,
            cwd=cwd,
            env=environment,
            pass_fds=[*inputs[1:], *pass_fds],
            start_new_session=True,  # Ctrl-C is ours to handle
        )
        for descriptor in inputs:
            os.close(descriptor)
        return RunHandle(process, stdout, stderr, limits, folder)


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
