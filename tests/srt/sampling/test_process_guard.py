"""ChildProcessGuard: watched processes do not outlive this one, even when it is killed."""

import os
import signal
import subprocess
import sys

import pytest

from srt.sampling.process_guard import ChildProcessGuard
from tests.srt.helpers.processes import still_running


@pytest.fixture
def child():
    process = subprocess.Popen(["sleep", "100"])
    yield process
    process.kill()
    process.wait()


def test_watched_processes_die_with_a_killed_parent():
    script = (
        "import subprocess, time; from srt.sampling.process_guard import ChildProcessGuard\n"
        "guard = ChildProcessGuard()\n"
        "child = subprocess.Popen(['sleep', '100']); guard.watch([child.pid])\n"
        "print(child.pid, flush=True); time.sleep(100)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert parent.stdout is not None
    child_pid = int(parent.stdout.readline())
    parent.send_signal(signal.SIGKILL)
    parent.communicate(timeout=30)  # returns once nobody holds the pipe, not even the child
    assert not still_running([child_pid])


def test_kill_all_kills_and_a_dismissed_guard_does_not(child):
    dismissed, guard = ChildProcessGuard(), ChildProcessGuard()
    dismissed.watch([child.pid])
    dismissed.dismiss()
    assert child.poll() is None
    guard.watch([child.pid])
    guard.watch([child.pid])
    guard.kill_all()
    assert child.wait(timeout=30) == -signal.SIGKILL


def test_kill_all_kills_descendants_too():
    outer = subprocess.Popen(["sh", "-c", "sleep 100 & echo $!; wait"], stdout=subprocess.PIPE, text=True)
    assert outer.stdout is not None
    inner = int(outer.stdout.readline())
    gone = subprocess.Popen(["true"])
    gone.wait()
    guard = ChildProcessGuard()
    guard.watch([gone.pid, outer.pid])
    guard.kill_all()
    assert outer.wait(timeout=30) == -signal.SIGKILL
    outer.communicate(timeout=30)  # returns once nobody holds the pipe
    assert not still_running([inner])
