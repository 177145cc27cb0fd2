"""A fixture that the attack tests share."""

import time
from pathlib import Path

import pytest

from tests.srt.helpers.attacks import PROBLEM
from tests.srt.helpers.code_cases import fenced, judge
from tests.srt.helpers.processes import descendants


def temporary_files():
    return {path for folder in ("/tmp", "/var/tmp", "/dev/shm") for path in Path(folder).glob("*")}


@pytest.fixture
def nothing_left_behind():
    """After the test none of its processes and files are left, and the judge still works."""
    processes_before, files_before = descendants(), temporary_files()
    judge().judge(fenced("print(2)"), PROBLEM)
    yield
    deadline = time.monotonic() + 10
    while descendants() - processes_before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not descendants() - processes_before
    new_files = temporary_files() - files_before
    assert not any("evil" in path.name or "srt-judge" in path.name for path in new_files)
    assert judge().judge(fenced("print(2)"), PROBLEM).correct
    assert not judge().judge(fenced("print(3)"), PROBLEM).correct
