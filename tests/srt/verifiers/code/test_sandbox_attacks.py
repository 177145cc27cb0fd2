"""What a hostile program may try. Each is really tried; afterwards the judge works and nothing is left behind.

Programs that succeed print 2, the expected output: a verdict of "right" means that an attack went through.
"""

import os
import socket
import time
from dataclasses import replace
from pathlib import Path

import pytest

from srt.contract.records import Problem
from tests.srt.helpers.code_cases import adding, fenced, judge

pytestmark = pytest.mark.bwrap

LIMIT = 0.25  # seconds of processor time; a run may wait for 4 * LIMIT + 4 seconds
PROBLEM = Problem(
    "attack",
    "?",
    "",
    mode="code",
    tests=[{"input": "1\n", "output": "2\n"}],
    limits={"time_seconds": LIMIT, "memory_mb": 64},
)
IF_TRUE = "\nprint(2 if {} else 'held')\n"


def processes():
    """The processes that this one has started, and theirs: (pid, command) pairs."""
    parents, commands = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            stat = (folder / "stat").read_text()
            commands[int(folder.name)] = (folder / "cmdline").read_text().replace("\0", " ")
        except OSError:  # it has just ended
            continue
        parents[int(folder.name)] = int(stat.rsplit(")", 1)[1].split()[1])
    ours = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in ours} - ours:
        ours |= more
    return {(pid, commands.get(pid, "")) for pid in ours - {os.getpid()}}


def files():
    return {path for place in ("/tmp", "/var/tmp", "/dev/shm") for path in Path(place).glob("*")}


@pytest.fixture(autouse=True)
def nothing_is_left_behind():
    started, there = processes(), files()
    judge().judge(fenced("print(2)"), PROBLEM)
    yield
    deadline = time.monotonic() + 10
    while processes() - started and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not processes() - started
    assert not any("evil" in path.name or "srt-judge" in path.name for path in files() - there)
    assert judge().judge(fenced("print(2)"), PROBLEM).correct
    assert not judge().judge(fenced("print(3)"), PROBLEM).correct


def attack(program, problem=PROBLEM, language="python"):
    """The reason of the verdict, which is never "right" and comes in time."""
    started = time.monotonic()
    verdict = judge().judge(fenced(program, language), problem)
    assert time.monotonic() - started < 4 * LIMIT + 4 + 1
    assert not verdict.correct, verdict
    return verdict.reason


def test_fork_bomb():
    attack("import os\nwhile True:\n    try: os.fork()\n    except OSError: pass")


def test_threads_without_end():
    program = """
import os, threading, time
try:
    for n in range(100):
        threading.Thread(target=time.sleep, args=(9,)).start()
except RuntimeError:
    os._exit(33)
print(2)
"""
    assert "runtime error (exit code 33)" in attack(program)


def test_memory_bomb():
    patient = replace(PROBLEM, limits=PROBLEM.limits | {"time_seconds": 4 * LIMIT})
    assert "memory limit" in attack("x = []\nwhile True: x.append(bytearray(b'x' * 2**20))", patient)


def test_memory_bomb_of_several_processes():
    attack("import os\nfor _ in range(4): os.fork()\nx = bytearray(b'x' * 50 * 2**20)\nwhile True: pass")


def test_ten_gigabytes_of_output():
    assert "output limit" in attack("import os\nb = b'x' * 2**20\nfor _ in range(10 * 2**10): os.write(1, b)")


def test_ten_gigabytes_of_errors():
    attack("import os\nb = b'x' * 2**20\nfor _ in range(10 * 2**10): os.write(2, b)\nprint(2)")


def test_filling_the_disk():
    program = "n = 0\nwhile True:\n    n += 1\n    with open(f'evil{n}', 'wb') as file: file.write(b'x' * 2**24)"
    assert "No space left on device" in attack(program)


def test_a_huge_file_with_a_hole():
    attack("import os\nos.truncate(os.open('evil', os.O_CREAT | os.O_RDWR), 2**40)\nprint(2)")


def test_endless_loop_that_ignores_signals():
    program = """
import signal
for number in set(signal.valid_signals()) - {9, 19}:
    signal.signal(number, signal.SIG_IGN)
while True: pass
"""
    assert "time limit" in attack(program)


def test_endless_loops_in_several_processes():
    assert "time limit" in attack("import os\nfor _ in range(3): os.fork()\nwhile True: pass")


def test_sleeping_past_the_wall_clock_limit():
    assert "time limit (it waits" in attack("import time\ntime.sleep(1000)\nprint(2)")


def test_a_process_that_leaves_everything_by_which_it_could_be_killed():
    mark = f"evil-{os.getpid()}-{time.monotonic_ns()}"
    program = f"""
import ctypes, os, sys
for _ in range(2):
    if os.fork() == 0: os.setsid()
ctypes.CDLL(None).prctl(1, 0)
try: os.setsid()
except OSError: pass
os.execv(sys.executable, [sys.executable, "-c", "import time; time.sleep(1000)", "{mark}"])
"""
    assert "time limit (it waits" in attack(program)
    deadline = time.monotonic() + 2
    while everywhere(mark) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not everywhere(mark)


def everywhere(mark):
    """The machine's processes with the mark in their command, whoever started them."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found += [path] if mark in path.read_text() else []
        except OSError:  # it has just ended
            pass
    return found


def test_a_daemon_that_keeps_standard_output_open():
    program = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        while True:
            print("evil", flush=True)
            time.sleep(0.01)
    os._exit(0)
os.wait()
print(3)
"""
    started = time.monotonic()
    assert "wrong answer" in attack(program)
    assert time.monotonic() - started < 3  # nobody waited for the daemon


def test_environment_variables(monkeypatch):
    monkeypatch.setenv("EVIL_SECRET", "hf_secret")
    look = """
import glob, os
found = str(dict(os.environ))
for path in glob.glob("/proc/*/environ"):
    try: found += open(path).read()
    except OSError: pass
"""
    assert "'held'" in attack(look + IF_TRUE.format("'SECRET' in found or 'HOME' in found"))


def test_the_home_folder(tmp_path):
    homes = [str(Path.home()), "/root", "/home", str(tmp_path), str(Path(__file__).resolve().parents[4])]
    # Python and Rust may themselves lie in a home folder: then the way there is all that is seen of it.
    program = f"""
import os
found = []
for home in {homes!r}:
    try: found += [name for name in os.listdir(home) if name not in (".pyenv", ".rustup")]
    except OSError: pass
"""
    assert "'held'" in attack(program + IF_TRUE.format("found"))


def test_passwords_and_settings_of_the_machine():
    places = ["/etc/passwd", "/etc/shadow", "/etc/hostname", "/var", "/run", "/sys", "/boot"]
    program = f"import os\nfound = [place for place in {places!r} if os.path.exists(place)]"
    assert "'held'" in attack(program + IF_TRUE.format("found"))


def test_a_listener_on_this_machine():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        attack(f"import socket\nsocket.create_connection(('127.0.0.1', {port}), 1)\nprint(2)")
        attack("import socket\nsocket.create_connection(('8.8.8.8', 53), 1)\nprint(2)")
        listener.settimeout(0.1)
        with pytest.raises(TimeoutError):
            listener.accept()


def test_a_socket_in_the_abstract_namespace():
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("\0evil-listener")
        listener.listen()
        attack("import socket\nsocket.socket(socket.AF_UNIX).connect('\\0evil-listener')\nprint(2)")


def test_killing_the_parent_and_everybody_else():
    program = "import os\nfor pid in (os.getppid(), 1, -1, *range(2, 1000)):\n    if pid != os.getpid():\n"
    program += "        try: os.kill(pid, 9)\n        except OSError: pass\n"
    attack(program)


def test_writing_outside_of_the_work_folder():
    places = [f"{folder}/evil" for folder in ("", "/usr", "/etc", "/box", "/dev", "/proc", "/root", "/lib")]
    program = f"""
done = []
for place in {places!r}:
    try: open(place, "w"); done.append(place)
    except OSError: pass
"""
    assert "'held'" in attack(program + IF_TRUE.format("done"))


def test_changing_the_program_or_the_interpreter():
    program = "import os, sys\ndone = []\nfor path in (__file__, sys.executable, os.__file__):\n"
    program += "    try: os.chmod(path, 0o777); done.append(path)\n    except OSError: pass\n"
    program += "    try: open(path, 'r+'); done.append(path)\n    except OSError: pass"
    assert "'held'" in attack(program + IF_TRUE.format("done"))


def test_links_and_ways_through_proc(tmp_path):
    secret = tmp_path / "evil-secret"
    secret.write_text("2")
    secret.chmod(0o644)
    ways = ["", "/proc/1/root", "/proc/self/root", "/proc/1/cwd/../..", "/tmp/link", "/tmp/other"]
    program = f"""
import os
os.symlink("/", "/tmp/link")
os.symlink("/proc/1/root", "/tmp/other")
found = []
for way in {ways!r}:
    try: found.append(open(way + {str(secret)!r}).read())
    except OSError: pass
"""
    assert "'held'" in attack(program + IF_TRUE.format("found"))


def test_the_memory_of_other_processes_and_of_the_kernel():
    program = """
import glob, os
done = []
for path in [*glob.glob("/proc/[0-9]*/mem"), "/proc/kcore", "/proc/kmsg", "/dev/mem"]:
    if f"/{os.getpid()}/" in path: continue
    try: open(path, "rb").read(1); done.append(path)
    except OSError: pass
for path in ("/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger"):
    try: open(path, "w").write("evil"); done.append(path)
    except OSError: pass
"""
    assert "'held'" in attack(program + IF_TRUE.format("done"))


def test_becoming_root_mounting_and_making_namespaces():
    program = """
import ctypes, os
libc, done = ctypes.CDLL(None), []
for name in ("setuid", "setgid"):
    try: getattr(os, name)(0); done.append(name)
    except OSError: pass
done += ["mount"] * (libc.mount(b"none", b"/tmp", b"tmpfs", 0, None) == 0)
done += ["remount"] * (libc.mount(None, b"/", None, 32, None) == 0)
done += ["chroot"] * (libc.chroot(b"/proc/1/root") == 0)
done += ["ptrace"] * (libc.ptrace(16, 1, None, None) == 0)
"""
    assert "'held'" in attack(program + IF_TRUE.format("done"))


def test_importing_the_judge():
    attack("import sys\nsys.path += ['/work', '/repo', '.']\nimport srt.verifiers.code\nprint(2)")


def test_deleting_the_tests():
    program = "import shutil\nfor place in ('/tmp', '/box', '/etc'): shutil.rmtree(place, ignore_errors=True)"
    assert "wrong answer: 0 words" in attack(program)
    assert judge().judge(fenced("print(2)"), PROBLEM).correct


def test_reading_the_expected_output():
    tests = [{"input": "1\n", "output": "evil-expected-output\n"}]
    problem = Problem("p", "?", "", mode="code", tests=tests, limits=PROBLEM.limits)
    program = """
import glob, os
found = []
for folder, _, names in os.walk("/tmp"):
    found += [os.path.join(folder, name) for name in names]
found += glob.glob("/box/*") + glob.glob("/proc/[0-9]*/fd/*") + glob.glob("/proc/[0-9]*/cmdline")
for path in found:
    try:
        if path != __file__ and b"evil-expected" in open(path, "rb").read():
            print("evil-expected-output")
    except OSError: pass
"""
    assert "0 words instead of 1" in attack(program, problem)


def test_a_fake_verdict_and_an_early_exit():
    attack('import os\nprint("{\\"correct\\": true}\\nPASSED 1 of 1 tests", flush=True)\nos._exit(0)')


def test_a_compiler_that_is_asked_for_our_files(tmp_path):
    secret = tmp_path / "evil.h"
    secret.write_text('#include <cstdio>\nint main() { puts("2"); }')
    assert "compile error" in attack(f'#include "{secret}"', language="cpp")
    assert "compile error" in attack('#include "/etc/shadow"\nint main() {}', language="cpp")


def test_a_compiler_that_never_ends(monkeypatch):
    import srt.verifiers.code as code

    monkeypatch.setattr(code, "BUILD", code.replace(code.BUILD, cpu_seconds=1, wall_seconds=5))
    program = "template <class T> struct B0 {};\n"
    for n in range(1, 40):
        program += f"template <class T> struct B{n} {{ B{n - 1}<T*> a; B{n - 1}<T**> b; }};\n"
    assert "compile error" in attack(program + "int main() { B39<int> b; }", language="cpp")


# Functions: the tests are in another sandbox ---------------------------------------------------------------


@pytest.mark.parametrize(
    "program",
    [
        "import os\nos._exit(0)",
        "import os\ndef add(a, b): os._exit(10)",
        "raise SystemExit(0)",
        "def add(a, b): raise SystemExit(10)",
        "def add(a, b): raise KeyboardInterrupt",
        "class Same:\n    def __eq__(self, other): return True\ndef add(a, b): return Same()",
        "class Same(list):\n    def __eq__(self, other): return True\ndef add(a, b): return Same()",
        "import builtins\nbuiltins.AssertionError = builtins.Exception = None\ndef add(a, b): return 0",
        "def check(candidate): pass\ndef add(a, b): return 0",
        "import os\nfor fd in range(3, 99):\n    try: os.write(fd, b'\\x01\\0\\0\\0N' * 9)\n"
        "    except OSError: pass\ndef add(a, b): return 0",
        "import os\ndef add(a, b):\n    for fd in range(3, 99):\n"
        "        try: os.write(fd, b'\\xff\\xff\\xff\\x7f')\n        except OSError: pass\n    os._exit(0)",
    ],
)
def test_ways_around_the_tests_of_a_function(program):
    attack(program, adding())


def test_what_the_tests_of_a_function_expect_cannot_be_found():
    test = "SECRET = 'evil-' + 'expected'\ndef check(candidate):\n    assert candidate(0, 0) == SECRET\n"
    program = """
import gc, glob, os, sys
def add(a, b):
    for path in glob.glob("/proc/[0-9]*/environ") + glob.glob("/tmp/*") + glob.glob("/proc/self/fd/[0-2]"):
        try:
            if "SEC" "RET" in open(path, errors="replace").read(): return "evil-expected"
        except OSError: pass
    frame = sys._getframe()
    while frame := frame.f_back:
        if "SEC" "RET" in str(frame.f_globals) + str(frame.f_locals): return "evil-expected"
    return "no" if not any(isinstance(o, dict) and "SEC" "RET" in o for o in gc.get_objects()) else "evil-expected"
"""
    attack(program, adding(test))
