"""Processes that a limit of a control group refused: the one place that reads the kernel's counters of them.

Whose failure a refusal is depends on the group whose limit it was. The limit of a run's own group is the
program's; that of our group, or of a group around it, is the machine's. The kernel does not always say which:

- since 6.11 it counts a refusal in the group that has the limit, and in all groups above it;
- before, in the group of the process that forked, whichever group's limit it was.

So a run without a group of its own is watched by the counters of our group and those above (`ancestry`,
`num_refused`; machine.py), and a run in one by its group's counter, with the limit that was nearest
(`is_limited_from_outside`; cgroup.py).

Source: Documentation/admin-guide/cgroup-v2.rst, "pids.events" and "pids.events.local".
"""

import math
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")


def fields(path: Path) -> dict[str, int]:
    """A file of lines `name number`."""
    lines = (line.split() for line in path.read_text().splitlines())
    return {parts[0]: int(parts[1]) for parts in lines if len(parts) == 2 and parts[1].lstrip("-").isdigit()}


def num_refused(folder: Path) -> int:
    """How many processes were refused in a group so far; 0 where nothing counts them."""
    # Newer kernels count a limit's refusals in all groups above it, too, unless asked for the local ones.
    for name in ("pids.events.local", "pids.events"):
        try:
            return fields(folder / name)["max"]
        except (OSError, KeyError):
            continue
    return 0


def is_limited_from_outside(folder: Path) -> bool:
    """Whether a group around this one allows fewer processes than this one's own limit."""
    room = _room(folder)
    return any(_room(around) < room for around in folder.parents if (around / "pids.max").is_file())


def ancestry(own: Path = Path("/proc/self/cgroup"), mounted: Path = CGROUPS) -> list[Path]:
    """The control groups, ours and those above, whose limits on processes hold for us."""
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return []
    folders = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "pids"):
            root = mounted / controllers
            group = root / path.lstrip("/")
            folders += [folder for folder in (group, *group.parents) if folder.is_relative_to(root)]
    return folders


def _room(folder: Path) -> float:
    """How many more processes the limit of a group allows."""
    limit = (folder / "pids.max").read_text().strip()
    return math.inf if limit == "max" else int(limit) - int((folder / "pids.current").read_text())
