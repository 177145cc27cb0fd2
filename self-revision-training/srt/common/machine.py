"""What this machine has free, for memory_plan.py: on the visible GPUs, and of main memory. PLAN_FOR states another
machine."""

import re
from dataclasses import dataclass
from pathlib import Path

import torch

from srt.common.errors import UserError

CGROUPS = Path("/sys/fs/cgroup")
UNLIMITED = 2**60  # control groups without a limit have a huge one, or "max"
# What torch sees of a GPU's nominal memory, whose "GB" are GiB: 79.1 of 80 on an H100, 139.8 of 141 on an H200.
USABLE = 0.985
STATED = re.compile(r"(?:(\d+)x)?(\d+)x(\d+(?:\.\d+)?)(?:\+(\d+(?:\.\d+)?))?")


@dataclass(frozen=True)
class Machine:
    """`gpu_bytes`: free on the GPU with the least; None without a GPU. `host_bytes`: free; None: unknown.

    `gpu_total`: bytes of a GPU; 0 without one. `machines`: that are like this one and work together. `stated`: the
    text of PLAN_FOR, when this is not the machine that the program runs on.
    """

    gpus: int
    gpu_bytes: int | None
    host_bytes: int | None
    gpu_total: int = 0
    machines: int = 1
    stated: str | None = None


def this_machine() -> Machine:
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    free = [_free_on_gpu(index) for index in range(gpus)]
    total = torch.cuda.get_device_properties(0).total_memory if gpus else 0
    return Machine(gpus, min(free, default=None), free_host_memory(), total)


def stated_machine(plan_for: str | None, dry_run: bool) -> Machine | None:
    """The machine that PLAN_FOR describes; None if it is not set.

    Raises UserError for a text that describes none, and for a run that is no dry run.
    """
    if plan_for is None:
        return None
    if not dry_run:
        raise UserError(
            f"PLAN_FOR={plan_for} describes another machine, to plan for with --dry-run; leave it unset to run on "
            "this one"
        )
    match = STATED.fullmatch(plan_for.strip().lower())
    machines, gpus, size, host = match.groups() if match else (None, "0", "0", None)
    if not int(machines or 1) or not int(gpus) or not float(size):
        raise UserError(
            f"PLAN_FOR={plan_for}: expected GPUs x GB of each, such as 8x80; with main memory in GB, 8x80+1000; "
            "on two machines, 2x8x80"
        )
    gpu = int(float(size) * USABLE * 2**30)
    return Machine(int(gpus), gpu, int(float(host) * 1e9) if host else None, gpu, int(machines or 1), plan_for)


def _free_on_gpu(index: int) -> int:
    """Without opening the GPU, which would take memory on it in this process."""
    total = torch.cuda.get_device_properties(index).total_memory
    try:
        return total - torch.cuda.device_memory_used(index)
    except (ImportError, RuntimeError):  # NVML's Python package is missing, or does not know the GPU
        return total


def free_host_memory(meminfo: Path = Path("/proc/meminfo"), cgroups: Path = CGROUPS) -> int | None:
    """Bytes that a new process could take: of the machine, and of the control group that a container is in."""
    amounts = []
    if meminfo.is_file():
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
        if "MemAvailable" in lines:
            amounts.append(int(lines["MemAvailable"].split()[0]) * 1024)
    for limit, usage, statistics in (
        ("memory.max", "memory.current", "memory.stat"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
    ):
        if (most := _number(cgroups / limit)) is not None and most < UNLIMITED:
            # The kernel gives up cached files before it runs out.
            cached = _fields(cgroups / statistics).get("inactive_file", 0)
            amounts.append(max(0, most - (_number(cgroups / usage) or 0) + cached))
    return min(amounts, default=None)


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # not this version of control groups, or "max"
        return None


def _fields(path: Path) -> dict[str, int]:
    try:
        return {name: int(value) for name, value in (line.split() for line in path.read_text().splitlines())}
    except (OSError, ValueError):
        return {}
