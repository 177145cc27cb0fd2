"""A fixture that the attack tests share."""

import time
from pathlib import Path

import pytest

from tests.srt.helpers.attacks import PROBLEM
from tests.srt.helpers.code_cases import fenced, judge
from tests.srt.helpers.processes import descendants, is_running


def temporary_files():
    return {path for folder in ("/tmp", "/var/tmp", "/dev/shm") for path in Path(folder).glob("*")}


def running_descendants():
    """Process IDs. The launcher ends when it was idle, and is a zombie until the judge starts the next one."""
    return {pid for pid, _ in descendants() if is_running(pid)}


def is_ours(path):
    return "evil" in path.name or "srt-judge" in path.name


def lasting(find):
    """What `find` finds at first and in every later look, for up to 10 seconds."""
    left, deadline = find(), time.monotonic() + 10
    while left and time.monotonic() < deadline:
        time.sleep(0.05)
        left &= find()
    return left


@pytest.fixture
def nothing_left_behind():
    """After the test none of its processes and files are left, and the judge still works."""
    processes_before, files_before = running_descendants(), temporary_files()
    judge().judge(fenced("print(2)"), PROBLEM)
    yield
    # Files of another test process's judge come and go; what stays was left behind.
    assert not lasting(lambda: running_descendants() - processes_before)
    assert not lasting(lambda: {path for path in temporary_files() - files_before if is_ours(path)})
    assert judge().judge(fenced("print(2)"), PROBLEM).correct
    assert not judge().judge(fenced("print(3)"), PROBLEM).correct
