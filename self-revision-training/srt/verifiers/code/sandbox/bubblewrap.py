"""bubblewrap's command lines: what a sandboxed program sees of the machine, and as whom it runs."""

import itertools
import os
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

from srt.common.errors import UserError

BOX = "/box"  # the program's own files, read-only
WORK_FOLDER = "/tmp"  # where the program starts
TMP_BYTES = 256 * 2**20  # size of /tmp, in memory, for compilers
# A program's files count as its memory. A full /tmp is an error that it can handle; so /tmp is full first.
MIN_TMP_BYTES = 32 * 2**20
BUILD_DEVICES = ("null", "zero", "full", "random", "urandom")
RUN_DEVICES = ("null", "urandom")
SYSTEM_FOLDERS = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")  # besides /usr; mostly links into it
TOOLCHAIN_SETTINGS = ("/etc/ld.so.cache", "/etc/alternatives")  # all that builds see of /etc
UIDS = range(61184, 65520)  # the range systemd uses for its dynamic users, which exist only while a service runs

INSTALL = (
    "install bubblewrap (Debian and Ubuntu: apt-get install bubblewrap), or set CODE_SANDBOX=rlimits, which "
    "lets programs read your files and use the network"
)


class Bubblewrap:
    """Composes commands for one machine.

    `roots`: folders outside /usr that builds may read. `has_network`: whether this process has a network that
    programs must be cut off from. Raises UserError when bubblewrap is not installed.
    """

    def __init__(self, roots: Iterable[Path], has_network: bool):
        executable = shutil.which("bwrap")
        if executable is None:
            raise UserError(f"MODE=code: bubblewrap is not installed; {INSTALL}")
        self._as_root = os.geteuid() == 0
        self._user_numbers = itertools.count(os.getpid() * 64)
        namespaces = self._namespaces(executable, has_network)
        # Every mount takes time, and a compiled program needs few.
        settings = [path for path in map(Path, TOOLCHAIN_SETTINGS) if path.exists()]
        self._build_prefix = [executable, *_mounts([*roots, *settings], BUILD_DEVICES), *namespaces]
        self._run_prefix = [executable, *_mounts([], RUN_DEVICES), *namespaces]

    def command(
        self,
        files: Mapping[str, int],
        work_files: Mapping[str, int],
        roots: Iterable[Path] | None,
        tmp_bytes: int,
        seccomp: int | None,
    ) -> list[str]:
        """The prefix of a command that runs in a fresh sandbox.

        `files` (file name -> descriptor to read it from) go to BOX, read-only and executable; `work_files` to the
        folder where the command starts, whose file system holds `tmp_bytes`. `roots`: see Sandbox.start.
        `seccomp`: the descriptor of a system call filter.
        """
        work_folder = ["--perms", "0777", "--size", str(tmp_bytes), "--tmpfs", WORK_FOLDER]
        if roots is None:
            argv = [*self._build_prefix, *work_folder]
        else:  # in this order, since a root may be in /tmp
            argv = [*self._run_prefix, *work_folder, *_bind(roots)]
        if seccomp is not None:
            argv += ["--seccomp", str(seccomp)]
        for folder, mode, descriptors in ((BOX, "0555", files), (WORK_FOLDER, "0666", work_files)):
            for name, descriptor in descriptors.items():
                argv += ["--perms", mode, "--file", str(descriptor), f"{folder}/{name}"]
        return [*argv, "--remount-ro", "/", "--chdir", WORK_FOLDER, "--", *self._become_user()]

    def _namespaces(self, executable: str, has_network: bool) -> list[str]:
        namespaces = ("ipc", "pid", "uts", "cgroup-try", *(["net"] if has_network else []))
        # The first process of the sandbox is bubblewrap's own: it takes all others down with it, dies with the
        # bubblewrap outside, is out of the program's reach, and holds none of the descriptors that the program
        # is started with.
        arguments = [f"--unshare-{namespace}" for namespace in namespaces]
        if self._as_root:
            # Needed to become another user; _become_user() gives all of them up.
            capabilities = ("CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP")
            return [*arguments, *(part for capability in capabilities for part in ("--cap-add", capability))]
        options = subprocess.run([executable, "--help"], capture_output=True, text=True).stdout
        disable_userns = ["--disable-userns"] if "--disable-userns" in options else []  # since bubblewrap 0.8
        # It names the keys of our user, who is the program's, too.
        hidden = ["--dev-bind", "/dev/null", "/proc/keys"] if Path("/proc/keys").exists() else []
        return [*arguments, "--unshare-user", *disable_userns, *hidden]

    def _become_user(self) -> list[str]:
        """Started by root, each program gets a user ID of its own: the process limit does not apply to root."""
        if not self._as_root:
            return []
        uid = UIDS[next(self._user_numbers) % len(UIDS)]
        as_user = ("setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups")
        return [*as_user, "--bounding-set=-all", "--inh-caps=-all"]


def _bind(paths: Iterable[Path]) -> list[str]:
    arguments = []
    for path in paths:
        for parent in reversed(path.parents[:-1]):  # bubblewrap would give them the permissions they have outside
            arguments += ["--perms", "0755", "--dir", str(parent)]
        arguments += ["--ro-bind", str(path), str(path)]
    return arguments


def _mounts(readable: Iterable[Path], devices: Iterable[str]) -> list[str]:
    """What programs see of the machine. `--remount-ro /` comes last, after the program's files."""
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
    # Python's multiprocessing keeps its semaphores there.
    return [*arguments, "--symlink", WORK_FOLDER, "/dev/shm"]
