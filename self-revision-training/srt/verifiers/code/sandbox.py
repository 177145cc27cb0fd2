"""Where programs run that a model wrote: hostile until proven otherwise.

CODE_SANDBOX=bwrap (bubblewrap) covers, for each run of a program apart:
- files: /usr, the language's own folder and a fresh /tmp are all there is. /usr and the rest are read-only, /tmp
  lives in memory, is limited in size, and is gone with the run. No home folder, nothing of ours, no other
  program's files.
- network: a namespace without any interface but a loopback; the machine's is out of reach. Each program has its
  own, unless the judge has left the network itself (`leave_network`): then all have the judge's.
- processes: a PID namespace of its own. When the program ends or its time is over, every descendant is killed,
  also one that went into the background; it sees and signals no other process.
- environment: only what is set here.
- rights: started by root, programs run as a user that exists nowhere else, without capabilities, and cannot
  gain any. Started by anybody else, they run as that user in a user namespace of their own.
- limits for each process: CPU time, address space, file size (standard output too), open files, no core dumps;
  and for the whole run: wall-clock time, number of processes and threads.

It does not cover: bugs of the kernel (it has no system call filter), what can be learnt from /proc about the
machine (its processors, memory and load, not its processes), memory of several processes together (each has the
whole limit; the sum is checked only by the machine), and time spent on the processors by several processes at
once beyond the wall-clock limit.

CODE_SANDBOX=rlimits has the limits for each process, the clean environment, a fresh work folder, and kills the
process group afterwards. It does NOT keep a program from reading and writing what you may read and write, from
using the network, from signalling your other processes, from leaving a process in the background that left the
group, or from starting any number of processes. It is for machines where bubblewrap cannot work and the programs
are trusted as much as your own.

Input, output and files of a program are anonymous memory (memfd), not pipes: nobody can hold them open and make
the judge wait, and nothing is left on disk when the judge itself is killed.
"""

import ctypes
import itertools
import math
import os
import resource
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from srt.common.errors import UserError

KINDS = ("bwrap", "rlimits")
DEVICES = ("null", "zero", "full", "random", "urandom")
SYSTEM_FOLDERS = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")  # beside /usr; mostly links into it
SYSTEM_FILES = ("ld.so.cache", "alternatives")  # of /etc, which is not there otherwise
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "TMPDIR": "/tmp", "PYTHONHASHSEED": "0"}
BOX = "/box"  # the program's own files, read-only
TMP_BYTES = 256 * 2**20  # of /tmp, in memory
OPEN_FILES = 128
ADDRESS_SPACE_BESIDE = 1024  # MB above the limit: stacks and arenas that are reserved and never used
STDERR_BYTES = 4096  # of its end, that are read
# The first process of the sandbox takes all others along when it dies, and dies with bubblewrap; so it must be one
# that the program cannot reach. It waits for the program, so that its processor time is counted; bubblewrap's own
# first process does not tell (hence --as-pid-1).
FIRST_PROCESS = ("/bin/sh", "-c", '"$@"; exit $?', "sh")
CLONE_NEWNET = 0x40000000
UIDS = range(61184, 65520)  # what systemd gives to users that exist only while something runs

INSTALL = (
    "install bubblewrap (Debian and Ubuntu: apt-get install bubblewrap), or set CODE_SANDBOX=rlimits, which "
    "lets programs read your files and use the network"
)


@dataclass(frozen=True)
class Limits:
    """Of one run. `memory_mb`: resident, checked by who reads `Ran`; the hard limit is on the address space, and
    lies above it (see ADDRESS_SPACE_BESIDE), or there is none where `address_space` is False (JVM, Go)."""

    cpu_seconds: float
    wall_seconds: float
    memory_mb: float
    output_bytes: int
    processes: int
    address_space: bool = True
    stack_mb: float = 256  # as on Codeforces; threads of C and C++ reserve as much


@dataclass(frozen=True)
class Ran:
    """How a run ended. `exit_code`: 128 + the signal's number when a signal ended it. `memory_mb`: the most that
    one of its processes had resident, and at least what this process has, from which it was forked.

    `hung`: it was killed at the wall-clock limit. `flooded`: its output reached the limit and is cut off.
    """

    exit_code: int
    cpu_seconds: float
    memory_mb: float
    stdout: bytes
    stderr: str
    hung: bool
    flooded: bool


class Running:
    """A run that was started; `wait()` ends it one way or the other."""

    def __init__(self, process: subprocess.Popen, out: int, err: int, limits: Limits, folder: str | None):
        self._process, self._out, self._err = process, out, err
        self._limits, self._folder = limits, folder
        self._deadline = time.monotonic() + limits.wall_seconds

    def wait(self, patience: float = math.inf) -> Ran:
        """Waits until the run ends, or kills it at the wall-clock limit or after `patience` seconds."""
        pid = self._process.pid
        hung = threading.Event()

        def stop() -> None:
            hung.set()
            self._kill_group()

        watch = threading.Timer(min(patience, max(0.0, self._deadline - time.monotonic())), stop)
        watch.start()
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # it keeps its process id, so that none else is killed
        watch.cancel()
        watch.join()
        self._kill_group()
        _, status, used = os.wait4(pid, 0)
        code = os.waitstatus_to_exitcode(status)
        self._process.returncode = code  # Popen must not wait for a process id that is somebody else's by now
        out_size = os.fstat(self._out).st_size
        err_size = os.fstat(self._err).st_size
        ran = Ran(
            exit_code=code if code >= 0 else 128 - code,
            cpu_seconds=used.ru_utime + used.ru_stime,
            memory_mb=used.ru_maxrss / 1024,
            stdout=os.pread(self._out, self._limits.output_bytes, 0),
            stderr=os.pread(self._err, STDERR_BYTES, max(0, err_size - STDERR_BYTES)).decode("utf-8", "replace"),
            hung=hung.is_set(),
            flooded=out_size >= self._limits.output_bytes,
        )
        os.close(self._out)
        os.close(self._err)
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)
        return ran

    def _kill_group(self) -> None:
        """The group holds bubblewrap, whose death takes the sandbox along; without it, the program."""
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # it has ended and taken everything along


class Sandbox:
    """Starts programs. `roots`: folders outside of /usr that they may read, where compilers are.

    `has_network`: False when this process has left it. Raises UserError when the sandbox does not work on this
    machine. May be used from several threads.
    """

    def __init__(self, kind: str, roots: Iterable[Path] = (), has_network: bool = True):
        self.kind = kind
        self._as_root = os.geteuid() == 0
        self._numbers = itertools.count(os.getpid() * 64)
        if kind == "bwrap":
            bwrap = shutil.which("bwrap")
            if bwrap is None:
                raise UserError(f"MODE=code: bubblewrap is not installed; {INSTALL}")
            # Every mount takes time, and a program that is built needs few.
            namespaces = self._namespaces(has_network)
            self._for_builds = [bwrap, *_mounts([*roots, *_settings_of_tools()], DEVICES), *namespaces]
            self._for_runs = [bwrap, *_mounts([], ("null", "urandom")), *namespaces]
        for tool in ("prlimit", "setpriv"):
            if shutil.which(tool) is None:
                raise UserError(f"MODE=code: {tool} is missing; install util-linux")
        probe = Limits(cpu_seconds=5, wall_seconds=20, memory_mb=256, output_bytes=4096, processes=16)
        ran = self.run(["/bin/sh", "-c", "cat; cat {box}/file"], {"file": b"two"}, b"one ", probe)
        if (ran.exit_code, ran.stdout) != (0, b"one two"):
            said = ran.stderr.strip().splitlines() or [f"exit code {ran.exit_code}"]
            raise UserError(f"MODE=code: the sandbox ({kind}) does not work here ({said[-1]}); {_advice(kind)}")

    def run(
        self,
        command: Sequence[str],
        files: Mapping[str, bytes],
        stdin: bytes,
        limits: Limits,
        work_files: Mapping[str, bytes] | None = None,
        roots: Iterable[Path] | None = None,
    ) -> Ran:
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
    ) -> Running:
        """Start `command`; `{box}` in it becomes the folder of `files`, which are read-only and executable.

        `work_files` lie in the folder where it starts. `roots`: the folders outside of /usr that it needs; None:
        all of the sandbox's, and the settings of compilers. `pass_fds` keep their numbers.
        """
        out, err = _memfd(), _memfd()
        given = [_memfd(stdin)]
        folder = None
        if self.kind == "bwrap":
            argv = list(self._for_builds) if roots is None else [*self._for_runs, *_bind(roots)]
            for name, content, place, mode in (
                *((name, content, BOX, "0555") for name, content in files.items()),
                *((name, content, "/tmp", "0666") for name, content in (work_files or {}).items()),
            ):
                given.append(_memfd(content))
                argv += ["--perms", mode, "--file", str(given[-1]), f"{place}/{name}"]
            argv += ["--remount-ro", "/", "--chdir", "/tmp", "--", *FIRST_PROCESS, *self._user()]
            box, cwd, environment = BOX, "/", ENVIRONMENT
        else:
            argv, folder = [], tempfile.mkdtemp(prefix="srt-judge-")
            for name, content in {**files, **(work_files or {})}.items():
                path = Path(folder, name)
                path.write_bytes(content)
                path.chmod(0o755)
            box, cwd, environment = folder, folder, ENVIRONMENT | {"TMPDIR": folder}
        argv += _prlimit(limits, count_processes=self.kind == "bwrap")
        argv += [part.replace("{box}", box) for part in command]
        process = subprocess.Popen(
            argv,
            stdin=given[0],
            stdout=out,
            stderr=err,
            cwd=cwd,
            env=environment,
            pass_fds=[*given[1:], *pass_fds],
            start_new_session=True,  # Ctrl-C is for us
        )
        for descriptor in given:
            os.close(descriptor)
        return Running(process, out, err, limits, folder)

    def _namespaces(self, has_network: bool) -> list[str]:
        kinds = ("ipc", "pid", "uts", "cgroup-try", *(["net"] if has_network else []))
        names = ["--as-pid-1", *(f"--unshare-{kind}" for kind in kinds)]
        if self._as_root:
            # What it takes to become another user; _user() gives all of it up.
            needed = ("CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP")
            return [*names, *(part for capability in needed for part in ("--cap-add", capability))]
        options = subprocess.run([shutil.which("bwrap"), "--help"], capture_output=True, text=True).stdout
        further = ["--disable-userns"] if "--disable-userns" in options else []  # since bubblewrap 0.8
        return [*names, "--unshare-user", *further]

    def _user(self) -> list[str]:
        """Root's programs become a user of their own: the limit on processes does not hold for root."""
        if not self._as_root:
            return []
        uid = UIDS[next(self._numbers) % len(UIDS)]
        as_user = ("setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups")
        return [*as_user, "--bounding-set=-all", "--inh-caps=-all"]


def leave_network() -> bool:
    """Take this thread, and those it starts from now on, off the network for good; False when that is not allowed.

    A namespace without any interface, once for all programs, instead of one for each run.
    """
    return os.geteuid() == 0 and ctypes.CDLL(None).unshare(CLONE_NEWNET) == 0


def _settings_of_tools() -> list[Path]:
    return [path for path in (Path("/etc", name) for name in SYSTEM_FILES) if path.exists()]


def _bind(paths: Iterable[Path]) -> list[str]:
    arguments = []
    for path in paths:
        for parent in reversed(path.parents[:-1]):  # bubblewrap would give them the rights they have outside
            arguments += ["--perms", "0755", "--dir", str(parent)]
        arguments += ["--ro-bind", str(path), str(path)]
    return arguments


def _mounts(readable: Iterable[Path], devices: Iterable[str]) -> list[str]:
    """What programs see of the machine; --remount-ro / comes last, after their files."""
    arguments = ["--die-with-parent", "--ro-bind", "/usr", "/usr"]
    for name in SYSTEM_FOLDERS:
        folder = Path("/", name)
        if folder.is_symlink():
            arguments += ["--symlink", os.readlink(folder), str(folder)]
        elif folder.is_dir():
            arguments += ["--ro-bind", str(folder), str(folder)]
    arguments += [*_bind(readable), "--proc", "/proc", "--dir", "/dev"]
    for device in devices:
        arguments += ["--dev-bind", f"/dev/{device}", f"/dev/{device}"]
    for name, target in (("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2")):
        arguments += ["--symlink", f"/proc/self/fd{target}", f"/dev/{name}"]
    return [*arguments, "--perms", "0777", "--size", str(TMP_BYTES), "--tmpfs", "/tmp"]


def _prlimit(limits: Limits, count_processes: bool) -> list[str]:
    """The command that sets what every process of the run inherits."""
    megabyte = 2**20
    wanted = {
        "cpu": (resource.RLIMIT_CPU, math.ceil(limits.cpu_seconds)),
        "fsize": (resource.RLIMIT_FSIZE, limits.output_bytes),
        "nofile": (resource.RLIMIT_NOFILE, OPEN_FILES),
        "core": (resource.RLIMIT_CORE, 0),
        "stack": (resource.RLIMIT_STACK, int(min(limits.stack_mb, limits.memory_mb) * megabyte)),
    }
    if limits.address_space:
        wanted["as"] = (resource.RLIMIT_AS, int((limits.memory_mb + ADDRESS_SPACE_BESIDE) * megabyte))
    if count_processes:  # without a user of its own the limit would count all processes of ours
        wanted["nproc"] = (resource.RLIMIT_NPROC, limits.processes)
    arguments = ["prlimit"]
    for name, (number, value) in wanted.items():
        most = resource.getrlimit(number)[1]  # nobody but root can raise it
        arguments.append(f"--{name}={value if most == resource.RLIM_INFINITY else min(value, most)}")
    return arguments


def _memfd(content: bytes = b"") -> int:
    descriptor = os.memfd_create("srt-judge")
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def _advice(kind: str) -> str:
    if kind == "rlimits":
        return "programs cannot be started with limits"
    return (
        "in a container it needs the right to make namespaces; or set CODE_SANDBOX=rlimits, which lets programs "
        "read your files and use the network"
    )
