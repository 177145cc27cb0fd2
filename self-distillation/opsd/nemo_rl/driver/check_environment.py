"""python -m opsd.nemo_rl.driver.check_environment COMMIT: one line for each thing that ENGINE=nemo-rl needs.

The last step of setup_env.sh. Exit code 1 when something is missing; each line then says how to fix it.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from opsd.select_engine import (
    MEGATRON,
    choose_megatron_layers,
    nemo_rl_source,
    why_no_megatron,
    why_no_nemo_rl,
)

MIN_DRIVER = 580  # of CUDA 13, which torch 2.11.0 is built for
SHARED_MEMORY_GIB = 4  # Ray's object store; it uses the disk where there is less


class Check(NamedTuple):
    """`remedy`: how to fix what was found; None when it is fine."""

    name: str
    found: str
    remedy: str | None = None


def main(argv: list[str]) -> int:
    problems = 0
    for check in checks(argv[0]):
        problems += check.remedy is not None
        status = "ok     " if check.remedy is None else "PROBLEM"
        print(f"{status}  {check.name}: {check.found}{f'; {check.remedy}' if check.remedy else ''}")
    return int(problems > 0)


def checks(commit: str) -> Iterator[Check]:
    yield check_python()
    yield check_driver()
    yield check_packages()
    if "megatron" in os.environ.get("EXTRAS", "").split() or os.environ.get("TRAINER_BACKEND") == "megatron":
        yield check_megatron()
    yield from check_torch_and_gpus()
    yield check_source(commit)
    yield check_shared_memory()


def check_python() -> Check:
    found = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] == (3, 12):
        return Check("Python", found)
    return Check("Python", found, "expected 3.12: uv venv --python 3.12 in self-distillation/")


def check_driver() -> Check:
    name = "NVIDIA driver"
    if shutil.which("nvidia-smi") is None:
        return Check(name, "nvidia-smi is missing", "ENGINE=local needs no GPU")
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    answer = subprocess.run(query, capture_output=True, text=True)
    found = answer.stdout.split("\n")[0].strip()
    if not re.match(r"\d+", found):
        reason = (answer.stderr or answer.stdout).strip().split("\n")[0]
        return Check(name, f"nvidia-smi reports: {reason}", "use ENGINE=local until this is fixed")
    is_old = int(found.split(".")[0]) < MIN_DRIVER
    return Check(name, found, f"CUDA 13 needs {MIN_DRIVER} or newer" if is_old else None)


def check_packages() -> Check:
    missing = why_no_nemo_rl()
    if missing:
        return Check(
            "packages", missing, "delete self-distillation/.venv/.requirements and source setup_env.sh again"
        )
    return Check("packages", _versions(("vllm", "ray", "transformers")))


def check_megatron() -> Check:
    missing = why_no_megatron()
    if missing:
        return Check("Megatron", missing, "TRAINER_BACKEND=dtensor needs none of that")
    layers, reason = choose_megatron_layers(os.environ.get("MEGATRON_LAYERS", "auto"))
    return Check("Megatron", f"{_versions(MEGATRON)}; layers: {layers} ({reason})")


def check_torch_and_gpus() -> Iterator[Check]:
    import torch

    yield Check("torch", torch.__version__, None if torch.version.cuda else "this build has no CUDA; reinstall")
    count = torch.cuda.device_count()
    if not count:
        yield Check("GPUs", "none is visible", "check CUDA_VISIBLE_DEVICES, or use ENGINE=local")
        return
    majors: dict[str, list[int]] = {}  # by the GPU's name
    for index in range(count):
        gpu = torch.cuda.get_device_properties(index)
        majors.setdefault(f"{gpu.name} ({gpu.total_memory / 2**30:.0f} GiB)", []).append(gpu.major)
    is_old = any(major < 8 for of_name in majors.values() for major in of_name)
    found = ", ".join(f"{len(of_name)} x {name}" for name, of_name in majors.items())
    yield Check("GPUs", found, "bf16 needs compute capability 8.0 (A100) or newer" if is_old else None)


def check_source(commit: str) -> Check:
    folder = nemo_rl_source()
    if folder is None:
        return Check("NeMo-RL", f"NEMO_RL_DIR={os.environ.get('NEMO_RL_DIR')}", "unset it to have v0.7.0 cloned")
    if not (folder / ".git").exists():
        return Check("NeMo-RL", f"{folder} is not a git checkout; assumed to be v0.7.0 ({commit})")
    command = ["git", "-C", str(folder), "rev-parse", "HEAD"]
    head = subprocess.run(command, capture_output=True, text=True).stdout.strip()
    remedy = None if head.startswith(commit) else f"git -C {folder} checkout {commit}"
    return Check("NeMo-RL", f"{folder} at {head[:9]}", remedy)


def check_shared_memory() -> Check:
    free = shutil.disk_usage("/dev/shm").free / 2**30 if Path("/dev/shm").is_dir() else 0.0
    note = " (less than Ray's object store needs: it will use the disk)" if free < SHARED_MEMORY_GIB else ""
    return Check("shared memory", f"{free:.1f} GiB{note}")


def _versions(names: Iterable[str]) -> str:
    return ", ".join(f"{name} {version(name)}" for name in names)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
