"""What a run ran on: processor, memory and GPUs, for run.json. Never a reason to fail."""

import os
import platform
import subprocess
from pathlib import Path
from typing import Any


def hardware() -> dict[str, Any]:
    """{"host", "cpu", "cores", "memory_gib", "gpus"}; `cores`: those that this process may use.

    The GPUs are asked through nvidia-smi: opening one takes memory on it.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "host": platform.node(),
        "cpu": _field("/proc/cpuinfo", "model name") or platform.processor() or platform.machine(),
        "cores": cores,
        "memory_gib": _memory_gib(),
        "gpus": _gpus(),
    }


def describe_hardware(record: dict[str, Any]) -> str:
    """In one phrase, the same GPUs counted: 2x NVIDIA H100 80GB HBM3; Intel Xeon, 16 cores, 126 GiB (node7)."""
    listed = record.get("gpus")
    gpus = list(map(str, listed)) if isinstance(listed, list) else []
    counted = ", ".join(f"{gpus.count(name)}x {name}" for name in dict.fromkeys(gpus))
    memory = record.get("memory_gib")
    parts = [str(record.get("cpu")), f"{record.get('cores')} cores", *([f"{memory} GiB"] if memory else [])]
    host = f" ({record['host']})" if record.get("host") else ""
    return "; ".join(filter(None, [counted, ", ".join(parts)])) + host


def _memory_gib() -> float | None:
    kilobytes = (_field("/proc/meminfo", "MemTotal") or "").split()
    return round(int(kilobytes[0]) / 2**20, 1) if kilobytes else None


def _field(path: str, name: str) -> str | None:
    """The first value of `name: value` in a file of the kernel."""
    try:
        lines = Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        return None
    return next(
        (value.strip() for key, _, value in (line.partition(":") for line in lines) if key.strip() == name), None
    )


def _gpus() -> list[str]:
    """Names of the GPUs, those alone that CUDA_VISIBLE_DEVICES lists by number."""
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):  # no driver
        return []
    names = [line.strip() for line in result.stdout.splitlines() if line.strip()]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return names
    indices = [entry.strip() for entry in visible.split(",")]
    if not all(index.isdecimal() for index in indices if index):
        return names  # by UUID
    return [names[int(index)] for index in indices if index and int(index) < len(names)]
