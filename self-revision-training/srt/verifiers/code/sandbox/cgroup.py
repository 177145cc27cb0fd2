"""Limits over all processes of a run together: control groups, of version 2 or of version 1.

Memory counts everything that a run's processes make the kernel hold: heaps, files in /tmp and in memory, System V
segments, socket buffers, page tables. Version 2 is used where memory and processes are controlled by it and we may
make groups: as root, and as a user whose group was delegated (`systemd-run --user --scope -p Delegate=yes ...`).
Version 2 keeps processes out of groups that have controlled children, so the processes of our own group, which is
then ours alone, move into a child named MAIN first.

Source: Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/ in the kernel.
"""

import itertools
import os
import time
from collections.abc import Iterator
from pathlib import Path

from srt.verifiers.code.sandbox.refusals import fields, is_limited_from_outside, num_refused

MAIN = "srt-main"
PREFIX = "srt-judge-"
CONTROLLERS = ("memory", "pids")
SANDBOX_MB = 16  # of memory on top of the limit: bubblewrap, the shell, and what the kernel keeps about a run
SANDBOX_PROCESSES = 6  # on top of the limit: the launcher, bubblewrap, the shells
SETTLE_SECONDS = 2.0  # for the kernel to free the files of the run before
LEFTOVER_BYTES = 2**20
PEAK_SLACK_BYTES = 2**20  # the kernel charges several pages at a time
_numbers = itertools.count()


class CgroupError(Exception):
    """Why runs cannot have a control group, in words."""


class CgroupParent:
    """Where groups are made. Raises CgroupError when they cannot be made."""

    def __init__(self, mounts: str = "/proc/self/mounts", own: str = "/proc/self/cgroup"):
        self._folders = _version_2(mounts, own) or _version_1(mounts, own)
        self._remove_abandoned()
        try:
            group = self.new_group()
            group.set_limits(64, 16)
            group.close()
        except OSError as error:
            raise CgroupError(f"no control group may be made ({error.strerror}: {error.filename})") from error

    @property
    def version(self) -> int:
        return 2 if len(set(self._folders.values())) == 1 else 1

    def new_group(self) -> "Cgroup":
        name = f"{PREFIX}{os.getpid()}-{next(_numbers)}"
        return Cgroup({kind: folder / name for kind, folder in self._folders.items()}, self.version)

    def _remove_abandoned(self) -> None:
        """Groups of judges that were killed."""
        for folder in set(self._folders.values()):
            for path in folder.glob(f"{PREFIX}*"):
                pid = path.name.removeprefix(PREFIX).split("-")[0]
                if pid.isdigit() and not Path("/proc", pid).exists():
                    try:
                        path.rmdir()
                    except OSError:
                        pass  # its last processes are still ending, or another judge was faster


class Cgroup:
    """A group for runs, one after another, and for the process that starts them. Raises OSError."""

    def __init__(self, folders: dict[str, Path], version: int):
        self._folders = folders
        self._version = version
        self._memory = folders["memory"]
        for folder in dict.fromkeys(folders.values()):
            folder.mkdir()
        self._kills = self._failures = self._refusals = 0
        self._cpu_seconds = 0.0

    def add(self, pid: int) -> None:
        for folder in dict.fromkeys(self._folders.values()):
            _write(folder / "cgroup.procs", pid)

    def folders_and_parents(self) -> list[str]:
        """For the launcher, which leaves the group at the end: pairs of a folder and the one to go to."""
        pairs = []
        for folder in dict.fromkeys(self._folders.values()):
            parent = folder.parent
            pairs += [str(folder), str(parent / MAIN if (parent / MAIN).is_dir() else parent)]
        return pairs

    def set_limits(self, memory_mb: float, processes: int) -> None:
        """For the next run: `memory_mb` besides what the sandbox itself needs, files included."""
        memory = int((memory_mb + SANDBOX_MB) * 2**20)
        if self._version == 2:
            _write(self._memory / "memory.max", memory)
            _write_if_there(self._memory / "memory.swap.max", 0)
        else:
            _write_if_there(self._memory / "memory.memsw.limit_in_bytes", -1)
            _write(self._memory / "memory.limit_in_bytes", memory)
            _write_if_there(self._memory / "memory.memsw.limit_in_bytes", memory)
        _write(self._folders["pids"] / "pids.max", processes + SANDBOX_PROCESSES)

    def begin(self) -> None:
        """A run starts: count from here. Waits until the memory of the run before is free."""
        deadline = time.monotonic() + SETTLE_SECONDS
        while self._kept_bytes() > LEFTOVER_BYTES and time.monotonic() < deadline:
            time.sleep(0.005)
        if self._version == 1:
            _write(self._memory / "memory.max_usage_in_bytes", 0)
        self._kills, self._failures = self._memory_event("oom_kill"), self._memory_event("oom")
        self._refusals = num_refused(self._folders["pids"])
        self._cpu_seconds = self._total_cpu_seconds()

    def cpu_seconds(self) -> float:
        """Used by all processes since `begin`, those included that nobody waited for."""
        return self._total_cpu_seconds() - self._cpu_seconds

    def out_of_memory(self) -> str:
        """Why the kernel killed a process since `begin`: "limit" for the group's own limit, "machine", or ""."""
        if self._memory_event("oom_kill") <= self._kills:
            return ""
        if self._version == 2:
            return "limit" if self._memory_event("oom") > self._failures else "machine"
        peak, limit = (
            int((self._memory / f"memory.{name}_in_bytes").read_text()) for name in ("max_usage", "limit")
        )
        return "limit" if peak > limit - PEAK_SLACK_BYTES else "machine"

    def refused_processes(self) -> bool:
        """Whether a process was refused since `begin` although this group's own limit allowed it."""
        folder = self._folders["pids"]
        return num_refused(folder) > self._refusals and is_limited_from_outside(folder)

    def kill_others(self, keep: int) -> None:
        """Everything but the process `keep`."""
        for pid in self._pids():
            if pid != keep:
                try:
                    os.kill(pid, 9)
                except (ProcessLookupError, PermissionError):
                    pass

    def close(self) -> None:
        """Delete the group, when its processes have ended or left it."""
        deadline = time.monotonic() + SETTLE_SECONDS
        for folder in dict.fromkeys(self._folders.values()):
            while folder.is_dir():
                try:
                    folder.rmdir()
                except OSError:
                    if time.monotonic() > deadline:
                        break  # a later judge deletes it
                    time.sleep(0.005)

    def _pids(self) -> list[int]:
        return [int(pid) for pid in (self._memory / "cgroup.procs").read_text().split()]

    def _memory_event(self, name: str) -> int:
        file = "memory.events" if self._version == 2 else "memory.oom_control"
        return fields(self._memory / file).get(name, 0)

    def _total_cpu_seconds(self) -> float:
        folder = self._folders["cpu"]
        if self._version == 1:
            return int((folder / "cpuacct.usage").read_text()) / 1e9
        return fields(folder / "cpu.stat")["usage_usec"] / 1e6

    def _kept_bytes(self) -> int:
        """Of files in memory; processes end for sure."""
        return fields(self._memory / "memory.stat").get("shmem", 0)


def _version_2(mounts: str, own: str) -> dict[str, Path] | None:
    """None where version 2 does not control memory; raises CgroupError where we may not make groups."""
    root = next((Path(place) for kind, place, _ in _mounted(mounts) if kind == "cgroup2"), None)
    path = next((line[3:] for line in Path(own).read_text().splitlines() if line.startswith("0::")), None)
    if root is None or path is None:
        return None
    folder = root / path.lstrip("/")
    if folder.name == MAIN:
        folder = folder.parent
    try:
        if not set(CONTROLLERS) <= set((folder / "cgroup.controllers").read_text().split()):
            return None
        if not set(CONTROLLERS) <= set((folder / "cgroup.subtree_control").read_text().split()):
            _move_processes(folder)
            _write(folder / "cgroup.subtree_control", " ".join(f"+{name}" for name in CONTROLLERS))
    except OSError as error:
        raise CgroupError(f"our control group is not ours to divide ({error.strerror}: {folder})") from error
    return dict.fromkeys(("memory", "pids", "cpu"), folder)


def _move_processes(folder: Path) -> None:
    """Our group's processes, into its child MAIN; the group's own limits still hold for them."""
    (folder / MAIN).mkdir(exist_ok=True)
    for pid in (folder / "cgroup.procs").read_text().split():
        try:
            _write(folder / MAIN / "cgroup.procs", pid)
        except ProcessLookupError:
            pass  # it has ended


def _version_1(mounts: str, own: str) -> dict[str, Path]:
    """Raises CgroupError where memory, processes or CPU time are not controlled."""
    paths = {}
    for line in Path(own).read_text().splitlines():
        _, names, path = line.split(":", 2)
        paths |= dict.fromkeys(names.split(","), path)
    folders = {}
    for kind, place, options in _mounted(mounts):
        for controller, name in (("memory", "memory"), ("pids", "pids"), ("cpuacct", "cpu")):
            if kind == "cgroup" and controller in options and controller in paths and name not in folders:
                folder = Path(place, paths[controller].lstrip("/"))
                # In a container the path may be that on the host, and its own group be mounted at the top.
                folders[name] = folder if folder.is_dir() else Path(place)
    if missing := {"memory", "pids", "cpu"} - folders.keys():
        raise CgroupError(f"no control groups for {', '.join(sorted(missing))}")
    return folders


def _mounted(mounts: str) -> Iterator[tuple[str, str, list[str]]]:
    """(file system, place, options) of each mount."""
    for line in Path(mounts).read_text().splitlines():
        _, place, kind, options, *_ = line.split()
        yield kind, place, options.split(",")


def _write(path: Path, value: object) -> None:
    # Unbuffered, so that an error is raised here and names the file.
    descriptor = os.open(path, os.O_WRONLY)
    try:
        os.write(descriptor, str(value).encode())
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        os.close(descriptor)


def _write_if_there(path: Path, value: object) -> None:
    if path.exists():
        _write(path, value)
