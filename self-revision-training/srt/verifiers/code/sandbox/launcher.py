"""A small process that starts the runs of the judge, one at a time: python -I -S launcher.py <socket>.

Why not the judge itself: a program's peak memory, as the kernel reports it, includes that of the process that
started it; the judge holds tests of many megabytes, and this process next to nothing. It has one thread, so it
may fork and prepare the child: each run gets a session keyring of its own. Started inside a cgroup, it leaves
that with the judge.

Messages on the socket (SOCK_SEQPACKET), marshaled: the judge sends a run (argv, environment, folder, resource
limits, descriptors), with the descriptors attached, and may send KILL later; the answers are the process's id,
and when it has ended (wait status, CPU seconds, peak memory in KiB). The end of the judge closes the socket, which
ends the run and this process.

It is started by path and imports nothing of this package.
"""

import ctypes
import fcntl
import marshal
import os
import platform
import resource
import select
import signal
import socket
import sys
import time

KILL = b"kill"
MESSAGE_BYTES = 2**18
DESCRIPTORS = 64
KEYCTL = {"x86_64": 250, "aarch64": 219}  # the number of the system call
JOIN_SESSION_KEYRING = 1
PR_SET_CHILD_SUBREAPER = 36
KILLED_FIRST = "1000"  # for want of memory: programs, rather than this process or any other
ORPHAN_SECONDS = 10  # to end what a run left behind
LOOK_SECONDS = 0.05  # between two looks at what is left
CANNOT_START = 127  # exit code, as in shells


def main() -> None:
    connection = socket.socket(fileno=int(sys.argv[1]))
    connection.set_inheritable(False)
    cgroups = sys.argv[2:]  # pairs: the folder to leave and delete at the end, and where to go then
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1)
    while True:
        message, descriptors, _, _ = socket.recv_fds(connection, MESSAGE_BYTES, DESCRIPTORS)
        if not message:
            break
        if message == KILL:
            continue  # it came too late: the run had ended by itself
        if number := KEYCTL.get(platform.machine()):
            libc.syscall(number, JOIN_SESSION_KEYRING, None)  # new and empty; ours is forgotten
        pid = os.fork()
        if pid == 0:
            become_program(message, descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        connection.send(marshal.dumps(pid))
        if not wait(pid, connection, marshal.loads(message)[2]):
            break
    leave(cgroups)


def become_program(message: bytes, received: "list[int]") -> None:
    try:
        argv, environment, folder, limits, wanted = marshal.loads(message)
        os.setsid()  # Ctrl-C is the judge's to handle
        for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT):  # Python ignores or handles them
            signal.signal(number, signal.SIG_DFL)
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write(KILLED_FIRST)
        # Out of each other's way first: a received number may be another one's wanted number.
        first_free = max(wanted) + 1
        moved = [fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, first_free) for descriptor in received]
        for descriptor in received:
            os.close(descriptor)
        for descriptor, number in zip(moved, wanted, strict=True):
            os.dup2(descriptor, number)
        os.chdir(folder)
        for number, value in limits.items():
            resource.setrlimit(number, (value, value))
        os.execvpe(argv[0], argv, environment)
    except BaseException as error:
        os.write(2, f"{type(error).__name__}: {error}\n".encode())
    os._exit(CANNOT_START)


def wait(pid: int, connection: socket.socket, folder: str) -> bool:
    """Report the end of the run; False when the judge has ended."""
    ended = os.pidfd_open(pid)
    poll = select.poll()
    poll.register(ended, select.POLLIN)
    poll.register(connection, select.POLLIN)
    judge_lives = True
    while ended not in (ready := [descriptor for descriptor, _ in poll.poll()]):
        if connection.fileno() in ready:
            judge_lives = bool(connection.recv(len(KILL)))
            os.kill(pid, signal.SIGKILL)
            if not judge_lives:
                poll.unregister(connection)
    os.close(ended)
    # Still a zombie, so that its id cannot belong to another group. The group contains bubblewrap, whose death
    # ends the sandbox; without bubblewrap, the program itself.
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass
    _, status, usage = os.wait4(pid, 0)
    usages = [usage, *end_orphans()]
    if judge_lives:
        cpu_seconds = sum(usage.ru_utime + usage.ru_stime for usage in usages)
        peak_kb = max(usage.ru_maxrss for usage in usages)
        try:
            connection.send(marshal.dumps((status, cpu_seconds, peak_kb)))
            return True
        except OSError:
            pass
    if folder != "/":
        os.spawnvp(os.P_WAIT, "chmod", ["chmod", "-R", "u+rwx", folder])
        os.spawnvp(os.P_WAIT, "rm", ["rm", "-rf", folder])
    return False


def end_orphans() -> list:
    """What the run left behind outside of its group; it has become ours (PR_SET_CHILD_SUBREAPER)."""
    usages = []
    deadline = time.monotonic() + ORPHAN_SECONDS
    while time.monotonic() < deadline:
        try:
            with open(f"/proc/self/task/{os.getpid()}/children") as file:
                children = [int(child) for child in file.read().split()]
            for child in children:
                os.kill(child, signal.SIGKILL)
            pid, _, usage = os.wait4(-1, os.WNOHANG)
            if pid:
                usages.append(usage)
            elif children:
                until_ended(children[0], LOOK_SECONDS)
        except (ChildProcessError, FileNotFoundError):
            break
        except (ProcessLookupError, PermissionError):
            continue
    return usages


def until_ended(pid: int, timeout: float) -> None:
    ended = os.pidfd_open(pid)
    select.select([ended], [], [], timeout)
    os.close(ended)


def leave(cgroups: "list[str]") -> None:
    """End what is left in the cgroups, and delete them."""
    deadline = time.monotonic() + 2
    for folder, parent in zip(cgroups[::2], cgroups[1::2], strict=True):
        while time.monotonic() < deadline:
            try:
                for pid in open(f"{folder}/cgroup.procs").read().split():
                    if int(pid) != os.getpid():
                        os.kill(int(pid), signal.SIGKILL)
                with open(f"{parent}/cgroup.procs", "w") as file:
                    file.write(str(os.getpid()))
                os.rmdir(folder)
                break
            except FileNotFoundError:
                break
            except OSError:
                time.sleep(0.01)


if __name__ == "__main__":
    main()
