"""The system call filter of the sandbox: a BPF program that bubblewrap installs (`--seccomp`).

It allows what it does not name: solutions are written in many languages, whose runtimes use many calls. It denies
what no solution needs, and what has led out of sandboxes before or past their limits: keys, tracing and the
memory of other processes, asynchronous I/O of the kernel (io_uring), page faults handled by programs,
performance counters, BPF, new namespaces, mounts, kernel modules, clocks, file handles. Sockets exist for Unix,
IPv4, IPv6 and netlink only: others, such as those between a virtual machine and its host, know no network
namespaces.

Sources: linux/seccomp.h, linux/filter.h, and the tables of system calls of each architecture in the kernel.
"""

import errno
import platform
import struct

# BPF instructions: code, jump if true, jump if false, operand.
_LOAD, _JUMP_EQUAL, _JUMP_GREATER, _JUMP_AT_LEAST, _JUMP_BITS, _RETURN = 0x20, 0x15, 0x25, 0x35, 0x45, 0x06
# Offsets in struct seccomp_data (little-endian: the low halves of the arguments).
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, (16, 24, 32, 40)
_ALLOW, _ERROR = 0x7FFF0000, 0x00050000

_ARCHITECTURES = {
    "x86_64": (0xC000003E, 0),
    "aarch64": (0xC00000B7, 1),
}  # AUDIT_ARCH_*, column of the tables below
_X32 = 0x40000000  # x86_64: the calls of another ABI begin here
_LAST_CALL = 466  # removexattrat (Linux 6.13); programs must manage without later calls on older kernels, too
_NAMESPACES = 0x7E020000  # CLONE_NEW{NS,CGROUP,UTS,IPC,USER,PID,NET}
_FAMILIES = (1, 2, 10, 16)  # AF_UNIX, AF_INET, AF_INET6, AF_NETLINK

_DENIED = {  # with EPERM: (x86_64, aarch64); None: there is no such call
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kcmp": (312, 272),
    "pidfd_getfd": (438, 438),
    "process_madvise": (440, 440),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "userfaultfd": (323, 282),
    "perf_event_open": (298, 241),
    "bpf": (321, 280),
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "statmount": (457, 457),
    "listmount": (458, 458),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "acct": (163, 89),
    "syslog": (103, 116),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "fanotify_init": (300, 262),
    "memfd_secret": (447, 447),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "adjtimex": (159, 171),
    "clock_adjtime": (305, 266),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "vhangup": (153, 58),
    "lookup_dcookie": (212, 18),
    "move_pages": (279, 239),
    "migrate_pages": (256, 238),
    "iopl": (172, None),
    "ioperm": (173, None),
    "modify_ldt": (154, None),
}
# What makes the kernel hold memory that no process maps, denied where nothing measures that.
_UNMEASURED = {
    "memfd_create": (319, 279),
    "shmget": (29, 194),
    "msgget": (68, 186),
    "semget": (64, 190),
    "vmsplice": (278, 75),  # a pipe that holds one page of a huge one keeps all of it
    "socket": (41, 198),  # a listener's queue, TCP's buffers; pairs of sockets have small ones (socketpair)
}
_CLONE, _CLONE3, _SOCKET, _SETSOCKOPT = (56, 220), (435, 435), (41, 198), (54, 208)
_MMAP, _MADVISE, _FCNTL = (9, 222), (28, 233), (72, 25)
_SOL_SOCKET, _BUFFER_SIZES = 1, (7, 8)  # SO_SNDBUF, SO_RCVBUF
_MAP_SHARED, _MAP_ANONYMOUS = 0x01, 0x20  # together: memory that outlives its mappings, up to the last one's end
_MADV_PAGEOUT, _F_SETPIPE_SZ = 21, 1031  # to the swap, where it is not counted


def filter_program(allow_unmapped_memory: bool, machine: str | None = None) -> bytes | None:
    """The compiled filter (an array of struct sock_filter) for this machine's architecture; None for others.

    `allow_unmapped_memory`: whether programs may have memory that no process maps (memfd, System V, shared
    anonymous memory, sockets and larger buffers), for sandboxes that measure it.
    """
    if (machine or platform.machine()) not in _ARCHITECTURES:
        return None
    architecture, column = _ARCHITECTURES[machine or platform.machine()]
    denied = _DENIED if allow_unmapped_memory else _DENIED | _UNMEASURED
    numbers = sorted(number[column] for number in denied.values() if number[column] is not None)
    program = _Assembler()
    program.load(_ARCHITECTURE)
    program.jump(_JUMP_EQUAL, architecture, otherwise="denied")  # 32-bit programs on a 64-bit machine
    program.load(_NUMBER)
    if column == 0:
        program.jump(_JUMP_AT_LEAST, _X32, "missing")
    program.jump(_JUMP_GREATER, _LAST_CALL, "missing")
    # The C libraries fall back to clone, whose flags a filter can read.
    program.jump(_JUMP_EQUAL, _CLONE3[column], "missing")
    program.jump(_JUMP_EQUAL, _CLONE[column], "clone")
    if allow_unmapped_memory:
        program.jump(_JUMP_EQUAL, _SOCKET[column], "socket")
    if not allow_unmapped_memory:
        for call, label in ((_SETSOCKOPT, "option"), (_MMAP, "map"), (_MADVISE, "advice"), (_FCNTL, "control")):
            program.jump(_JUMP_EQUAL, call[column], label)
    for number in numbers:
        program.jump(_JUMP_EQUAL, number, "denied")
    program.answer(_ALLOW)
    program.label("clone")
    program.load(_ARGUMENTS[0])
    program.jump(_JUMP_BITS, _NAMESPACES, "denied", "allowed")
    program.label("socket")
    program.load(_ARGUMENTS[0])
    for family in _FAMILIES:
        program.jump(_JUMP_EQUAL, family, "allowed")
    program.answer(_ERROR | errno.EAFNOSUPPORT)
    program.label("option")
    program.load(_ARGUMENTS[1])
    program.jump(_JUMP_EQUAL, _SOL_SOCKET, otherwise="allowed")
    program.load(_ARGUMENTS[2])
    for option in _BUFFER_SIZES:
        program.jump(_JUMP_EQUAL, option, "denied")
    program.answer(_ALLOW)
    program.label("map")
    program.load(_ARGUMENTS[3])
    program.jump(_JUMP_BITS, _MAP_ANONYMOUS, otherwise="allowed")
    program.jump(_JUMP_BITS, _MAP_SHARED, "denied", "allowed")
    program.label("advice")
    program.load(_ARGUMENTS[2])
    program.jump(_JUMP_EQUAL, _MADV_PAGEOUT, "denied", "allowed")
    program.label("control")
    program.load(_ARGUMENTS[1])
    program.jump(_JUMP_EQUAL, _F_SETPIPE_SZ, "denied", "allowed")
    program.label("missing")
    program.answer(_ERROR | errno.ENOSYS)
    program.label("denied")
    program.answer(_ERROR | errno.EPERM)
    program.label("allowed")
    program.answer(_ALLOW)
    return program.assemble()


class _Assembler:
    """Instructions whose jumps name labels; an unnamed jump goes to the next instruction."""

    def __init__(self) -> None:
        self._instructions: list[tuple[int, str | None, str | None, int]] = []
        self._labels: dict[str, int] = {}

    def load(self, offset: int) -> None:
        self._instructions.append((_LOAD, None, None, offset))

    def jump(self, code: int, operand: int, then: str | None = None, otherwise: str | None = None) -> None:
        self._instructions.append((code, then, otherwise, operand))

    def answer(self, action: int) -> None:
        self._instructions.append((_RETURN, None, None, action))

    def label(self, name: str) -> None:
        self._labels[name] = len(self._instructions)

    def assemble(self) -> bytes:
        packed = b""
        for position, (code, then, otherwise, operand) in enumerate(self._instructions):
            distances = [self._labels[name] - position - 1 if name else 0 for name in (then, otherwise)]
            packed += struct.pack("<HBBI", code, *distances, operand)
        return packed
