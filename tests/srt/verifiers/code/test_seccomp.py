"""System calls that programs may not make, and languages that work all the same."""

import platform
import struct
from functools import cache

import pytest

from srt.verifiers.code.languages import BY_FENCE, find_toolchain, installed_roots
from srt.verifiers.code.sandbox import seccomp
from srt.verifiers.code.sandbox.sandbox import Sandbox
from tests.srt.helpers.attacks import attack
from tests.srt.helpers.code_cases import doubling, fenced, judge

EPERM, ENOSYS, EAFNOSUPPORT = 1, 38, 97
COLUMN = {"x86_64": 0, "aarch64": 1}.get(platform.machine(), 0)


def run_filter(program, number, arguments=(0, 0, 0), architecture=0xC000003E):
    """The answer of the filter to a call: an interpreter of the instructions that it uses."""
    data = struct.pack("<IIQ", number, architecture, 0) + struct.pack(
        "<6Q", *arguments, *[0] * (6 - len(arguments))
    )
    position = steps = 0
    value = 0
    while steps < 4096:
        code, then, otherwise, operand = struct.unpack_from("<HBBI", program, 8 * position)
        position, steps = position + 1, steps + 1
        if code == 0x06:
            return operand
        if code == 0x20:
            value = struct.unpack_from("<I", data, operand)[0]
            continue
        holds = {0x15: value == operand, 0x25: value > operand, 0x35: value >= operand, 0x45: value & operand}[
            code
        ]
        position += then if holds else otherwise
    raise AssertionError("the filter does not end")


@pytest.mark.parametrize(
    ("machine", "architecture", "column"), [("x86_64", 0xC000003E, 0), ("aarch64", 0xC00000B7, 1)]
)
def test_the_filter_of_each_architecture(machine, architecture, column):
    program = seccomp.filter_program(True, machine)
    strict = seccomp.filter_program(False, machine)
    assert program and strict

    def answer(number, arguments=(0, 0, 0), of=program, on=architecture):
        action = run_filter(of, number, arguments, on)
        return 0 if action == 0x7FFF0000 else action & 0xFFFF

    for numbers in seccomp._DENIED.values():
        if numbers[column] is not None:
            assert answer(numbers[column]) == EPERM
    assert answer((0, 63)[column]) == answer((1, 64)[column]) == 0  # read, write
    clone = (56, 220)[column]
    assert answer(clone, (0x3D0F00, 0, 0)) == 0  # a thread
    for namespace in (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000):
        assert answer(clone, (namespace | 17, 0, 0)) == EPERM
    assert answer(435) == answer(9999) == ENOSYS  # clone3, and calls of a later kernel
    socket = (41, 198)[column]
    assert [answer(socket, (family, 0, 0)) for family in (1, 2, 10, 16)] == [0] * 4
    assert [answer(socket, (family, 0, 0)) for family in (17, 38, 40)] == [EAFNOSUPPORT] * 3  # packet, alg, vsock
    assert answer((0, 63)[column], on=0x40000003) == EPERM  # i386
    assert column or answer(0x40000000) == ENOSYS  # x32
    for numbers in seccomp._UNMEASURED.values():
        assert (answer(numbers[column], (1, 1, 0)), answer(numbers[column], of=strict)) == (0, EPERM)
    option = (54, 208)[column]
    assert answer(option, (3, 1, 7), of=strict) == EPERM and answer(option, (3, 1, 2), of=strict) == 0
    assert answer(option, (3, 1, 7)) == 0
    memory_map, advise, control = (9, 222)[column], (28, 233)[column], (72, 25)[column]
    for flags, denied in ((0x21, EPERM), (0x40023, EPERM), (0x22, 0), (0x20022, 0), (0x01, 0), (0x02, 0)):
        assert answer(memory_map, (0, 4096, 3, flags), of=strict) == denied
        assert answer(memory_map, (0, 4096, 3, flags)) == 0
    assert [answer(advise, (0, 4096, advice), of=strict) for advice in (4, 8, 21)] == [0, 0, EPERM]
    assert [answer(control, (3, command), of=strict) for command in (1, 3, 1031)] == [0, 0, EPERM]
    pairs = (53, 199)[column]
    assert answer(pairs, (1, 1, 0), of=strict) == 0


def test_other_architectures_have_no_filter():
    assert seccomp.filter_program(True, "riscv64") is None


def test_the_numbers_are_those_of_the_kernels_headers():
    """Only where the headers are installed."""
    from pathlib import Path

    headers = [Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"), Path("/usr/include/asm-generic/unistd.h")]
    if not all(header.exists() for header in headers):
        pytest.skip("no kernel headers")
    for column, header in enumerate(headers):
        defined = {}
        for line in header.read_text().splitlines():
            parts = line.split()
            if len(parts) == 3 and parts[0] == "#define" and parts[1].startswith("__NR") and parts[2].isdigit():
                defined[parts[1].removeprefix("__NR3264_").removeprefix("__NR_")] = int(parts[2])
        for name, numbers in (seccomp._DENIED | seccomp._UNMEASURED).items():
            assert defined.get(name, numbers[column]) == numbers[column], (name, header)


@cache
def without_cgroups():
    return Sandbox("bwrap", installed_roots(), use_cgroups=False)


CALL = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
result = libc.syscall({number}, {arguments})
print(2 if result != -1 or ctypes.get_errno() not in (1, 38, 97) else "held")
"""


@pytest.mark.bwrap
@pytest.mark.parametrize("name", sorted(seccomp._DENIED))
def test_a_denied_call_fails_inside(name):
    number = seccomp._DENIED[name][COLUMN]
    if number is None:
        pytest.skip("not on this architecture")
    # Arguments with which a call that is let through fails with another error, or works.
    assert "'held'" in attack(CALL.format(number=number, arguments="0, 0, 0, 0, 0, 0"))


@pytest.mark.bwrap
@pytest.mark.parametrize(
    "call",
    [
        f"libc.syscall({(56, 220)[COLUMN]}, 0x10000000 | 17, None, None, None, None)",  # clone, a user namespace
        "libc.syscall(435, None, 0)",  # clone3
        "libc.unshare(0x10000000)",
        "libc.socket(40, 1, 0)",  # between a virtual machine and its host
        "libc.socket(38, 5, 0)",  # the kernel's cryptography
    ],
)
def test_namespaces_and_unusual_sockets(call):
    program = f"import ctypes, os\nlibc = ctypes.CDLL(None)\nif {call} != -1: print(2)\nelse: print('held')"
    assert "'held'" in attack(program)


@pytest.mark.bwrap
def test_a_program_sees_no_keys_of_ours_and_leaves_none():
    with_keys = (
        "\nprint(2 if any('evil' in line or '_ses' not in line for line in open('/proc/keys')) else 'held')"
    )
    assert "'held'" in attack(f"pass{with_keys}")


@pytest.mark.bwrap
@pytest.mark.parametrize(
    ("language", "program"),
    [
        ("python", "print(2 * int(input()))"),
        ("c", '#include <stdio.h>\nint main() { int n; scanf("%d", &n); printf("%d", 2 * n); }'),
        (
            "cpp",
            "#include <iostream>\n#include <thread>\nint main() { int n; std::cin >> n; "
            "std::thread t([&] { n *= 2; }); t.join(); std::cout << n; }",
        ),
        (
            "java",
            "import java.util.*;\npublic class Twice { public static void main(String[] a) throws Exception { "
            "int[] n = {new Scanner(System.in).nextInt()}; Thread t = new Thread(() -> n[0] *= 2); t.start(); "
            "t.join(); System.out.println(n[0]); } }",
        ),
        (
            "rust",
            "fn main() { let mut s = String::new(); std::io::stdin().read_line(&mut s).unwrap(); let n: i64 = "
            's.trim().parse().unwrap(); println!("{}", std::thread::spawn(move || 2 * n).join().unwrap()); }',
        ),
        (
            "go",
            'package main\nimport "fmt"\nfunc main() { var n int; fmt.Scan(&n); c := make(chan int); '
            "go func() { c <- 2 * n }(); fmt.Println(<-c) }",
        ),
    ],
)
def test_languages_with_their_threads_work(language, program):
    if find_toolchain(BY_FENCE[language]) is None:
        pytest.skip(f"no compiler for {language}")
    verdict = judge().judge(fenced(program, language), doubling())
    assert verdict.correct, verdict
