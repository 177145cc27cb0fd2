"""Limits that hold for all processes of a run together, and how the judge follows a run."""

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from srt.verifiers.code.failures import exceeded_limit
from srt.verifiers.code.languages import BY_NAME, PYTHON, find_toolchain, installed_roots, toolchain
from srt.verifiers.code.sandbox.cgroup import PREFIX, CgroupError, CgroupParent
from srt.verifiers.code.sandbox.limits import Limits
from srt.verifiers.code.sandbox.sandbox import Sandbox
from tests.srt.helpers.code_cases import judge

pytestmark = pytest.mark.bwrap

LIMITS = Limits(cpu_seconds=1, wall_seconds=10, memory_mb=64, output_bytes=2**20, processes=16)
KINDS = [("bwrap", True), ("bwrap", False), ("rlimits", True), ("rlimits", False)]


def why_no_cgroups():
    try:
        CgroupParent()
    except CgroupError as error:
        return str(error)
    return None


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: f"{kind[0]}-{'cgroups' if kind[1] else 'sampled'}")
def sandbox(request):
    kind, use_cgroups = request.param
    if use_cgroups and (reason := why_no_cgroups()):
        pytest.skip(reason)
    return Sandbox(kind, installed_roots(), use_cgroups=use_cgroups)


@pytest.fixture(scope="module")
def grouped():
    """A sandbox with control groups."""
    if reason := why_no_cgroups():
        pytest.skip(reason)
    return Sandbox("bwrap", installed_roots())


def run_python(sandbox, program, limits=LIMITS):
    python = toolchain(PYTHON)
    command = [python.executable, "{box}/program.py"]
    return sandbox.run(command, {"program.py": program.encode()}, b"", limits, None, python.roots)


def run_c(sandbox, program, limits=LIMITS):
    if find_toolchain(BY_NAME["C"]) is None:
        pytest.skip("no C compiler")
    build = "gcc -O1 -w -o program {box}/program.c >&2 && cat program"
    limits_of_build = replace(
        LIMITS, cpu_seconds=30, wall_seconds=60, memory_mb=1024, processes=64, output_bytes=2**26
    )
    source = {"program.c": program.encode()}
    built = Sandbox("bwrap", installed_roots()).run(["/bin/sh", "-c", build], source, b"", limits_of_build)
    assert built.exit_code == 0, built.stderr
    return sandbox.run(["{box}/program"], {"program": built.stdout}, b"", limits, None, ())


def test_a_modest_program_is_within_its_limits(sandbox):
    result = run_python(sandbox, "print(2)")
    assert (result.exit_code, result.stdout) == (0, b"2\n"), result
    assert exceeded_limit(result, LIMITS) is None
    assert result.memory_mb < 32  # its own, not ours


def test_memory_of_several_processes_is_added_up(sandbox):
    program = """
import os, time
for _ in range(6):
    if os.fork() == 0:
        held = bytearray(b"x" * 2**20) * 20
        time.sleep(0.5)
        os._exit(0)
for _ in range(6):
    os.wait()
print(2)
"""
    assert "memory limit" in exceeded_limit(run_python(sandbox, program), LIMITS)


def test_memory_that_processes_share_counts_once(sandbox):
    program = """
import os, time
held = bytearray(b"x" * 2**20) * 30
for _ in range(4):
    if os.fork() == 0:
        time.sleep(0.4)
        os._exit(0)
for _ in range(4):
    os.wait()
print(2)
"""
    result = run_python(sandbox, program)
    assert exceeded_limit(result, LIMITS) is None and result.stdout == b"2\n", result


@pytest.mark.parametrize("wait", ["", "signal.signal(signal.SIGCHLD, signal.SIG_IGN)"], ids=["orphan", "ignored"])
def test_cpu_time_of_processes_that_nobody_waits_for(sandbox, wait):
    program = f"""
import os, signal, time
{wait}
reading, writing = os.pipe()
if os.fork() == 0:
    for _ in range(3):
        if os.fork() == 0:
            while time.process_time() < 0.8: pass
            os.write(writing, b"x")
            time.sleep(9)
    os._exit(0)
for _ in range(3): os.read(reading, 1)
time.sleep(1)
print(2)
"""
    assert "time limit" in exceeded_limit(run_python(sandbox, program), LIMITS)


def test_parallel_loops_share_one_limit(sandbox):
    result = run_python(sandbox, "import os\nfor _ in range(3): os.fork()\nwhile True: pass")
    assert "of CPU time used" in exceeded_limit(result, LIMITS)  # before the wall-clock limit
    assert result.cpu_seconds < 4


SHARED_MEMORY = """
#include <stdio.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/shm.h>
int main() {
  for (int i = 0; i < 10; i++) {
    int s = shmget(IPC_PRIVATE, 25 << 20, 0600);
    char *p = shmat(s, 0, 0);
    if (p == (char *)-1) return 3;
    memset(p, i + 1, 25 << 20);
    shmdt(p);
  }
  puts("2");
}
"""
ANONYMOUS_FILES = """
#define _GNU_SOURCE
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>
static char block[1 << 20] = {7};
int main() {
  for (int i = 0; i < 300; i++) {
    int f = memfd_create("held", 0);
    if (f < 0) return 3;
    for (int k = 0; k < 2; k++) write(f, block, sizeof block);
  }
  puts("2");
}
"""

# One mapped page keeps all of a mapping's memory.
KEPT_BY_A_PAGE = """
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#define SIZE (25 << 20)
int main() {
  for (int i = 0; i < 10; i++) {
    char *p = mmap(0, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) return 3;
    memset(p, i + 1, SIZE);
    munmap(p + 4096, SIZE - 4096);
  }
  puts("2");
}
"""
MESSAGE_QUEUES = """
#include <stdio.h>
#include <sys/ipc.h>
#include <sys/msg.h>
static struct { long kind; char text[4096]; } message = {1};
int main() {
  for (int i = 0; i < 20000; i++) {
    int queue = msgget(IPC_PRIVATE, 0600);
    if (queue < 0) return 3;
    for (int k = 0; k < 3; k++) msgsnd(queue, &message, sizeof message.text, IPC_NOWAIT);
  }
  puts("2");
}
"""
# What was sent to connections that nobody accepts belongs to no descriptor of the program.
UNACCEPTED = """
#define _GNU_SOURCE
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
static char block[1 << 16];
int main() {
  int listener = socket(AF_UNIX, SOCK_STREAM, 0);
  if (listener < 0) return 3;
  struct sockaddr_un place = {AF_UNIX, "listener"};
  bind(listener, (void *)&place, sizeof place);
  listen(listener, 4096);
  for (int i = 0; i < 2000; i++) {
    int s = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (connect(s, (void *)&place, sizeof place)) return 4;
    while (send(s, block, sizeof block, MSG_NOSIGNAL) > 0) {}
    close(s);
  }
  puts("2");
}
"""
UNMAPPED = {
    "System V": SHARED_MEMORY,
    "memfd": ANONYMOUS_FILES,
    "kept by a page": KEPT_BY_A_PAGE,
    "messages": MESSAGE_QUEUES,
    "unaccepted": UNACCEPTED,
}
OUTLIVE = ("System V", "messages")  # the program, where it has no namespace of its own


@pytest.mark.parametrize("what", UNMAPPED)
def test_memory_that_no_process_maps(sandbox, what):
    if sandbox.kind == "rlimits" and what in OUTLIVE:
        pytest.skip("rlimits: it would outlive the run")
    if sandbox.kind == "rlimits" and "cgroup" not in sandbox.guarantees().split("no control groups")[0]:
        pytest.skip("rlimits without control groups: not measured, and the guarantees say so")
    result = run_c(sandbox, UNMAPPED[what], replace(LIMITS, cpu_seconds=3, output_bytes=2**25))
    # Measured, or denied where it cannot be measured.
    assert "memory limit" in (exceeded_limit(result, LIMITS) or "") or result.exit_code == 3, result


def test_socket_buffers_are_memory(grouped):
    program = """
import socket
held = []
for _ in range(60):
    a, b = socket.socketpair()
    a.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**26)
    a.setblocking(False)
    try:
        while True: a.send(b"x" * 65536)
    except BlockingIOError: pass
    held.append((a, b))
print(2)
"""
    result = run_python(grouped, program, replace(LIMITS, memory_mb=16, cpu_seconds=5))
    assert result.memory_limit_hit and not result.machine_out_of_memory


def test_files_are_memory(grouped):
    program = """
for number in range(3):
    with open(f"file{number}", "wb") as file:
        try:
            for _ in range(31): file.write(b"x" * 2**20)
        except OSError as error: print(error)
held = bytearray(b"x" * 2**20) * 50
print(2)
"""
    limits = replace(LIMITS, output_bytes=2**25, cpu_seconds=5)
    result = run_python(grouped, program, limits)
    assert result.memory_limit_hit or b"No space left" in result.stdout


@pytest.mark.parametrize(
    "fill",
    [
        "held = bytearray(b'x' * 2**20) * 30\nopen('file', 'wb').write(b'x' * (30 * 2**20))",
        "for number in range(10**6): open(f'file{number}', 'w')",
    ],
    ids=["content", "empty"],
)
def test_files_and_heaps_share_one_limit(sandbox, fill):
    if sandbox.kind == "rlimits":
        pytest.skip("the work folder is on disk")
    limits = replace(LIMITS, output_bytes=2**25, cpu_seconds=30, wall_seconds=60)
    result = run_python(sandbox, f"import time\n{fill}\ntime.sleep(20)", limits)
    assert "memory limit" in exceeded_limit(result, limits), result


def test_a_tests_own_files_are_not_the_programs_memory(sandbox):
    python = toolchain(PYTHON)
    files = {"input.txt": b"x" * (70 * 2**20)}
    program = {"program.py": b"import time\ntime.sleep(0.5)\nprint(2)"}
    result = sandbox.run([python.executable, "{box}/program.py"], program, b"", LIMITS, files, python.roots)
    assert exceeded_limit(result, LIMITS) is None and result.stdout == b"2\n", result


def test_a_mapped_file_counts_once(sandbox):
    program = """
import mmap, time
with open("file", "wb+") as file:
    file.truncate(25 * 2**20)
    with mmap.mmap(file.fileno(), 0) as view:
        view[:] = b"x" * len(view)
        time.sleep(0.5)
print(2)
"""
    limits = replace(LIMITS, memory_mb=96, output_bytes=2**25)
    result = run_python(sandbox, program, limits)
    assert exceeded_limit(result, limits) is None and result.stdout == b"2\n", result


def test_what_the_judge_holds_is_not_the_programs_memory():
    held = bytearray(b"x") * (300 * 2**20)
    result = run_python(judge().sandbox, "x = bytearray(b'x' * 2**20) * 90\nprint(2)")
    assert "memory limit" in exceeded_limit(result, LIMITS)
    assert len(held) == 300 * 2**20


def test_memory_is_free_again_for_the_next_run(grouped):
    fills = "with open('file', 'wb') as file: file.write(b'x' * (20 * 2**20))\nprint(2)"
    for _ in range(5):
        result = run_python(grouped, fills, replace(LIMITS, output_bytes=2**25))
        assert result.stdout == b"2\n" and not result.memory_limit_hit, result


def test_groups_are_deleted():
    if reason := why_no_cgroups():
        pytest.skip(reason)
    groups = CgroupParent()
    group = groups.new_group()
    folders = group.folders_and_parents()[::2]
    assert all(Path(folder).name.startswith(f"{PREFIX}{os.getpid()}-") for folder in folders)
    group.close()
    assert not any(Path(folder).exists() for folder in folders)


def test_an_abandoned_group_is_deleted_by_the_next_judge():
    if reason := why_no_cgroups():
        pytest.skip(reason)
    parent = Path(CgroupParent().new_group().folders_and_parents()[1])
    abandoned = parent / f"{PREFIX}99999999-0"
    abandoned.mkdir()
    CgroupParent()
    assert not abandoned.exists()


def test_no_control_group_is_no_error(tmp_path):
    (tmp_path / "mounts").write_text("proc /proc proc rw 0 0\n")
    (tmp_path / "own").write_text("0::/\n")
    with pytest.raises(CgroupError, match="no control groups for cpu, memory, pids"):
        CgroupParent(str(tmp_path / "mounts"), str(tmp_path / "own"))


def test_the_guarantees_name_what_holds(sandbox):
    line = sandbox.guarantees()
    assert line.startswith(f"CODE_SANDBOX={sandbox.kind}: ") and "\n" not in line
    assert ("NO isolation" in line) == (sandbox.kind == "rlimits")
    assert ("limited over all processes (cgroup v" in line) != ("no control groups" in line)


# Output and files -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["/dev/stdout", "/proc/self/fd/1", "/dev/fd/1"])
def test_standard_output_may_be_opened_again(sandbox, place):
    program = f"print('a', flush=True)\nwith open('{place}', 'w') as file: file.write('b\\n')\nprint('c')"
    assert run_python(sandbox, program).stdout == b"a\nb\nc\n"


def test_output_up_to_the_limit_arrives_whole(sandbox):
    result = run_python(sandbox, "import sys\nsys.stdout.write('x' * (2**20 - 1))\nsys.stderr.write('y' * 9999)")
    assert len(result.stdout) == 2**20 - 1 and not result.output_limit_hit and len(result.stderr) == 4096
    result = run_python(sandbox, "while True: print('x' * 9999)")
    assert result.output_limit_hit and len(result.stdout) == 2**20


@pytest.mark.parametrize(
    "mess",
    [
        "import os\nos.makedirs('a/b')\nopen('a/b/c', 'w')\nos.chmod('a/b', 0)\nos.chmod('a', 0)",
        "import os\nfor _ in range(1500):\n    os.mkdir('d')\n    os.chdir('d')",
        "import os, time\nif os.fork() == 0:\n    os.setsid()\n    here = os.getcwd()\n    time.sleep(0.3)\n"
        "    while True:\n        os.makedirs(here, exist_ok=True)\n        open(here + '/again', 'w')",
    ],
    ids=["permissions", "deep", "daemon"],
)
def test_without_a_sandbox_no_folder_and_no_process_is_left(mess, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    run_python(Sandbox("rlimits"), mess + "\n")
    time.sleep(0.5)
    assert not list(tmp_path.iterdir())
