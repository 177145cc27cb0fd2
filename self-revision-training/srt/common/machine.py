"""What this machine has free, for memory_plan.py: on the visible GPUs, and of main memory."""

from dataclasses import dataclass
from pathlib import Path

import torch

CGROUPS = Path("/sys/fs/cgroup")
UNLIMITED = 2**60  # control groups without a limit have a huge one, or "max"


@dataclass(frozen=True)
class Machine:
    """`gpu_bytes`: free on the GPU with the least; None without a GPU. `host_bytes`: free; None: unknown."""

    gpus: int
    gpu_bytes: int | None
    host_bytes: int | None


def this_machine() -> Machine:
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    free = [_free_on_gpu(index) for index in range(gpus)]
    return Machine(gpus, min(free, default=None), free_host_memory())


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
