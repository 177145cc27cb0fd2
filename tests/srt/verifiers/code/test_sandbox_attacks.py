"""Attacks by hostile programs. Each is really attempted; afterwards the judge works and nothing is left behind."""

import os
import socket
import time
from dataclasses import replace
from pathlib import Path

import pytest

from srt.contract.records import Problem
from srt.verifiers.code import build
from tests.srt.helpers.attacks import IF_TRUE, LIMIT, PROBLEM, attack
from tests.srt.helpers.code_cases import fenced, judge

pytestmark = [pytest.mark.bwrap, pytest.mark.usefixtures("nothing_left_behind")]


def test_fork_bomb():
    attack("import os\nwhile True:\n    try: os.fork()\n    except OSError: pass")


def test_endless_threads():
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
    slower = replace(PROBLEM, limits=PROBLEM.limits | {"time_seconds": 4 * LIMIT})
    assert "memory limit" in attack("x = []\nwhile True: x.append(bytearray(b'x' * 2**20))", slower)


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
    assert "time limit (wall-clock limit" in attack("import time\ntime.sleep(1000)\nprint(2)")


def test_a_process_that_escapes_its_group_and_session():
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
    assert "time limit" in attack(program)  # of wall-clock time, unless four interpreters take too long to start
    deadline = time.monotonic() + 2
    while marked_processes(mark) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not marked_processes(mark)


def marked_processes(mark):
    """All processes of the machine with the mark in their command line."""
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
    assert "wrong answer" in attack(program)  # no time limit: the judge did not wait for the daemon


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
    # Python and Rust may be installed in a home folder, of which programs then see only the path to them.
    program = f"""
import os
found = []
for home in {homes!r}:
    try: found += [name for name in os.listdir(home) if name not in (".pyenv", ".rustup")]
    except OSError: pass
"""
    assert "'held'" in attack(program + IF_TRUE.format("found"))


def test_the_passwords_and_settings_of_the_machine():
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


def test_killing_the_parent_and_all_other_processes():
    program = "import os\nfor pid in (os.getppid(), 1, -1, *range(2, 1000)):\n    if pid != os.getpid():\n"
    program += "        try: os.kill(pid, 9)\n        except OSError: pass\n"
    attack(program)


def test_writing_outside_the_work_folder():
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


def test_links_and_paths_through_proc(tmp_path):
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


def test_becoming_root_mounting_and_tracing():
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
    assert "wrong answer: expected 1 token, got 0" in attack(program)
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
    assert "expected 1 token, got 0" in attack(program, problem)


def test_a_fake_verdict_and_an_early_exit():
    attack('import os\nprint("{\\"correct\\": true}\\nPASSED 1 of 1 tests", flush=True)\nos._exit(0)')


def test_including_our_files(tmp_path):
    secret = tmp_path / "evil.h"
    secret.write_text('#include <cstdio>\nint main() { puts("2"); }')
    assert "compile error" in attack(f'#include "{secret}"', language="cpp")
    assert "compile error" in attack('#include "/etc/shadow"\nint main() {}', language="cpp")


def test_a_compilation_that_never_ends(monkeypatch):
    monkeypatch.setattr(build, "BUILD_LIMITS", replace(build.BUILD_LIMITS, cpu_seconds=1, wall_seconds=5))
    program = "template <class T> struct B0 {};\n"
    for n in range(1, 40):
        program += f"template <class T> struct B{n} {{ B{n - 1}<T*> a; B{n - 1}<T**> b; }};\n"
    assert "compile error" in attack(program + "int main() { B39<int> b; }", language="cpp")
