"""Control groups of version 2, on files that stand in for the kernel's.

CI and most development machines have version 1, or none that may be divided; the files show which of them are
written and how their counters are read, not what the kernel then does. test_limits.py has runs in real groups.
"""

import os
from pathlib import Path

import pytest

from srt.verifiers.code.sandbox.cgroup import (
    MAIN,
    PREFIX,
    SANDBOX_MB,
    SANDBOX_PROCESSES,
    CgroupError,
    CgroupParent,
)
from srt.verifiers.code.sandbox.refusals import ancestry, num_refused

SCOPE = "user.slice/user-1000.slice/user@1000.service/app.slice/run-r1.scope"
FILES = {
    "cgroup.procs": "",
    "memory.max": "max\n",
    "memory.swap.max": "max\n",
    "memory.events": "low 0\nhigh 0\nmax 0\noom 0\noom_kill 0\n",
    "memory.stat": "anon 0\nshmem 0\n",
    "pids.max": "max\n",
    "pids.current": "0\n",
    "pids.events": "max 0\n",
    "cpu.stat": "usage_usec 1000000\nuser_usec 0\n",
}


class Kernel:
    """The tree of groups, in `root`: new folders get the files that the kernel would put there."""

    def __init__(self, root, monkeypatch):
        self.root = root
        make, remove = Path.mkdir, Path.rmdir

        def mkdir(folder, *arguments, **options):
            make(folder, *arguments, **options)
            if folder.is_relative_to(root):
                for name, content in FILES.items():
                    # Files keep the rest of what is overwritten, other than the kernel's.
                    is_limit = name.endswith(".max") and folder.name.startswith(PREFIX)
                    (folder / name).write_text("" if is_limit else content)

        def rmdir(folder):
            if folder.is_relative_to(root):
                for name in FILES:
                    (folder / name).unlink(missing_ok=True)
            remove(folder)

        monkeypatch.setattr(Path, "mkdir", mkdir)
        monkeypatch.setattr(Path, "rmdir", rmdir)

    def own_group(self, path, controllers="cpu memory pids", enabled=""):
        folder = self.root / path
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "cgroup.controllers").write_text(controllers + "\n")
        (folder / "cgroup.subtree_control").write_text(enabled + "\n")
        (folder / "cgroup.procs").write_text(f"{os.getpid()}\n")
        return folder

    def groups(self, own_path):
        files = {"mounts": f"cgroup2 {self.root} cgroup2 rw 0 0\n", "own": f"0::/{own_path}\n"}
        for name, content in files.items():
            (self.root.parent / name).write_text(content)
        return CgroupParent(*(str(self.root.parent / name) for name in files))


@pytest.fixture
def kernel(tmp_path, monkeypatch):
    (tmp_path / "groups").mkdir()
    return Kernel(tmp_path / "groups", monkeypatch)


def test_a_delegated_scope_is_divided_and_its_processes_move_into_a_child(kernel):
    scope = kernel.own_group(SCOPE)
    groups = kernel.groups(SCOPE)
    assert groups.version == 2
    assert (scope / "cgroup.subtree_control").read_text().split("\n")[0] == "+memory +pids"
    assert (scope / MAIN / "cgroup.procs").read_text() == str(os.getpid())
    group = groups.new_group()
    folder, parent = group.folders_and_parents()
    assert Path(folder).parent == scope and Path(parent) == scope / MAIN


def test_a_judge_that_was_moved_makes_groups_beside_its_own(kernel):
    scope = kernel.own_group(SCOPE, enabled="memory pids")
    kernel.own_group(f"{SCOPE}/{MAIN}")
    folder, _ = kernel.groups(f"{SCOPE}/{MAIN}").new_group().folders_and_parents()
    assert Path(folder).parent == scope


def test_limits_of_memory_swap_and_processes(kernel):
    kernel.own_group(SCOPE, enabled="memory pids")
    group = kernel.groups(SCOPE).new_group()
    folder = Path(group.folders_and_parents()[0])
    group.set_limits(64, 16)
    written = {name: (folder / name).read_text() for name in ("memory.max", "memory.swap.max", "pids.max")}
    assert {name: int(limit) for name, limit in written.items()} == {
        "memory.max": (64 + SANDBOX_MB) * 2**20,
        "memory.swap.max": 0,
        "pids.max": 16 + SANDBOX_PROCESSES,
    }


@pytest.mark.parametrize(
    ("oom", "oom_kill", "reason"), [(0, 0, ""), (1, 1, "limit"), (0, 1, "machine"), (1, 0, "")]
)
def test_whose_limit_killed_a_process(kernel, oom, oom_kill, reason):
    kernel.own_group(SCOPE, enabled="memory pids")
    group = kernel.groups(SCOPE).new_group()
    events = Path(group.folders_and_parents()[0]) / "memory.events"
    events.write_text("oom 3\noom_kill 5\n")
    group.begin()
    events.write_text(f"oom {3 + oom}\noom_kill {5 + oom_kill}\n")
    assert group.out_of_memory() == reason


def test_processor_time_counts_from_the_beginning_of_the_run(kernel):
    kernel.own_group(SCOPE, enabled="memory pids")
    group = kernel.groups(SCOPE).new_group()
    group.begin()
    (Path(group.folders_and_parents()[0]) / "cpu.stat").write_text("usage_usec 3500000\n")
    assert group.cpu_seconds() == 2.5


@pytest.mark.parametrize(("around", "is_machine"), [("max", False), ("60", False), ("12", True)])
def test_whose_limit_refused_a_process(kernel, around, is_machine):
    """Before 6.11 the run's group counts it, whichever group's limit it was."""
    scope = kernel.own_group(SCOPE, enabled="memory pids")
    group = kernel.groups(SCOPE).new_group()
    folder = Path(group.folders_and_parents()[0])
    group.set_limits(64, 16)
    (folder / "pids.current").write_text("5\n")
    (scope / "pids.max").write_text(f"{around}\n")
    (scope / "pids.current").write_text("12\n")
    group.begin()
    assert not group.refused_processes()
    (folder / "pids.events").write_text("max 1\n")
    assert group.refused_processes() is is_machine


def test_refusals_of_all_groups_around_us_are_read_once(kernel):
    """Since 6.11 a group counts those of its children, too, unless asked for its own."""
    scope = kernel.own_group(SCOPE)
    own = kernel.root.parent / "own"
    own.write_text(f"0::/{SCOPE}\n")
    folders = ancestry(own, kernel.root)
    assert folders[0] == scope and folders[-1] == kernel.root and len(folders) == 1 + len(Path(SCOPE).parts)
    assert sum(map(num_refused, folders)) == 0
    for folder, count in ((scope, 2), (scope.parent, 5)):
        (folder / "pids.events").write_text(f"max {count}\n")
    (scope.parent / "pids.events.local").write_text("max 3\n")
    assert sum(map(num_refused, folders)) == 5


def test_without_the_controllers_version_1_is_asked(kernel):
    kernel.own_group(SCOPE, controllers="cpu")
    with pytest.raises(CgroupError, match="no control groups for cpu, memory, pids"):
        kernel.groups(SCOPE)


def test_a_group_of_someone_else_is_not_divided(kernel):
    scope = kernel.own_group(SCOPE)
    (scope / "cgroup.subtree_control").unlink()
    (scope / "cgroup.subtree_control").mkdir()  # to write to it fails, for root as well
    with pytest.raises(CgroupError, match="our control group is not ours to divide"):
        kernel.groups(SCOPE)
