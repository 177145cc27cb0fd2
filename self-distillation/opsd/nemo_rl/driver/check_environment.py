"""python -m opsd.nemo_rl.driver.check_environment COMMIT: one line for each thing that ENGINE=nemo-rl needs.

The last step of setup_env.sh. Exit code 1 when something is missing; each line then says how to mend it.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from pathlib import Path

from opsd.select_engine import MEGATRON, nemo_rl_source, why_no_megatron, why_no_nemo_rl

LEAST_DRIVER = 580  # of CUDA 13, which torch 2.11.0 is built for
SHARED_MEMORY_GIB = 4  # Ray's object store; it uses the disk where there is less


def main(argv: list[str]) -> int:
    problems = 0
    for name, found, mend in checks(argv[0]):
        problems += mend is not None
        print(f"{'ok     ' if mend is None else 'PROBLEM'}  {name}: {found}{f'; {mend}' if mend else ''}")
    return int(problems > 0)


def checks(commit: str) -> Iterator[tuple[str, str, str | None]]:
    """What is looked at, what was found, and how to mend it (None: it is fine)."""
    yield python_version()
    yield driver()
    yield packages()
    if "megatron" in os.environ.get("EXTRAS", "").split() or os.environ.get("TRAINER_BACKEND") == "megatron":
        yield megatron()
    yield from torch_and_gpus()
    yield source(commit)
    yield shared_memory()


def python_version() -> tuple[str, str, str | None]:
    found = ".".join(map(str, sys.version_info[:3]))
    fine = sys.version_info[:2] == (3, 12)
    return "Python", found, None if fine else "expected is 3.12: uv venv --python 3.12 in self-distillation/"


def driver() -> tuple[str, str, str | None]:
    if shutil.which("nvidia-smi") is None:
        return "NVIDIA driver", "nvidia-smi is not there", "ENGINE=local needs no GPU"
    asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    answer = subprocess.run(asked, capture_output=True, text=True)
    found = answer.stdout.split("\n")[0].strip()
    if not re.match(r"\d+", found):
        reason = (answer.stderr or answer.stdout).strip().split("\n")[0]
        return "NVIDIA driver", f"nvidia-smi says: {reason}", "use ENGINE=local until it is mended"
    old = int(found.split(".")[0]) < LEAST_DRIVER
    return "NVIDIA driver", found, f"CUDA 13 needs {LEAST_DRIVER} or newer" if old else None


def packages() -> tuple[str, str, str | None]:
    missing = why_no_nemo_rl()
    if missing:
        return "packages", missing, "delete self-distillation/.venv/.requirements and source setup_env.sh again"
    return "packages", versions(("vllm", "ray", "transformers")), None


def megatron() -> tuple[str, str, str | None]:
    missing = why_no_megatron()
    if missing:
        return "Megatron", missing, "TRAINER_BACKEND=dtensor needs none of that"
    return "Megatron", versions(MEGATRON), None


def versions(names: Iterable[str]) -> str:
    return ", ".join(f"{name} {version(name)}" for name in names)


def torch_and_gpus() -> Iterator[tuple[str, str, str | None]]:
    import torch

    yield "torch", torch.__version__, None if torch.version.cuda else "this build has no CUDA; reinstall"
    count = torch.cuda.device_count()
    if not count:
        yield "GPUs", "none is visible", "check CUDA_VISIBLE_DEVICES, or use ENGINE=local"
        return
    names = {}
    for index in range(count):
        gpu = torch.cuda.get_device_properties(index)
        names.setdefault(f"{gpu.name} ({gpu.total_memory / 2**30:.0f} GiB)", []).append(gpu.major)
    old = any(major < 8 for majors in names.values() for major in majors)
    found = ", ".join(f"{len(majors)} x {name}" for name, majors in names.items())
    yield "GPUs", found, "bf16 needs compute capability 8.0 (A100) or newer" if old else None


def source(commit: str) -> tuple[str, str, str | None]:
    folder = nemo_rl_source()
    if folder is None:
        return "NeMo-RL", f"NEMO_RL_DIR={os.environ.get('NEMO_RL_DIR')}", "unset it to have v0.7.0 cloned"
    if not (folder / ".git").exists():
        return "NeMo-RL", f"{folder} is no git checkout; that it is v0.7.0 ({commit}) is taken on trust", None
    asked = ["git", "-C", folder, "rev-parse", "HEAD"]
    head = subprocess.run(asked, capture_output=True, text=True).stdout.strip()
    fine = head.startswith(commit)
    return "NeMo-RL", f"{folder} at {head[:9]}", None if fine else f"git -C {folder} checkout {commit}"


def shared_memory() -> tuple[str, str, str | None]:
    free = shutil.disk_usage("/dev/shm").free / 2**30 if Path("/dev/shm").is_dir() else 0.0
    slow = " (less than Ray's object store takes: it will use the disk)" if free < SHARED_MEMORY_GIB else ""
    return "shared memory", f"{free:.1f} GiB{slow}", None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
