"""Phase 1, training: stage 1 (generation) from the base model, stage 2 (revision) from stage 1.

TRL's SFTTrainer does the training. This package adds the token ids and supervised positions (dataset.py), the
choice of tuples for each update (batching.py), resuming, and the metadata of each checkpoint. The command reads
and checks everything once (plan.py). It then trains in its own process (stages.py), or launches several
(launch.py) that read the pickled plan (worker.py).
"""

import os
import pickle

import torch

from srt.common.console import print_next
from srt.common.disk import disk_bytes, shown_bytes
from srt.common.dry_run import DRY_RUN
from srt.common.files import atomic_write
from srt.config import load_config
from srt.sft.config import SftConfig
from srt.sft.dry_run import show_plan
from srt.sft.launch import launch
from srt.sft.plan import make_plan
from srt.sft.stages import train_stages


def train(argv: list[str]) -> None:
    """Train all stages. Complete stages are not trained again; an interrupted one is resumed.

    With --dry-run, only print what would be done.
    """
    dry_run = DRY_RUN in argv
    config = load_config(SftConfig, "sft", [argument for argument in argv if argument != DRY_RUN])
    plan = make_plan(config, dry_run)
    if dry_run:
        show_plan(plan)
        return
    plan_path = plan.output_dir / f".plan{plan.processes.machine_rank}.pickle"
    plan_path.unlink(missing_ok=True)  # left if the run was killed
    if plan.processes.total == 1:
        _print_gpu_in_use()
        train_stages(plan)
    else:
        with atomic_write(plan_path) as temporary:
            temporary.write_bytes(pickle.dumps(plan))
        try:
            launch(plan.processes, plan_path)
        finally:
            plan_path.unlink(missing_ok=True)
            plan_path.with_suffix(".error").unlink(missing_ok=True)
    srt_model = plan.output_dir / "stage2"
    print(f"\nthe SRT model: {srt_model} (disk used: {shown_bytes(disk_bytes(plan.output_dir))})")
    print_next("distill", {"STUDENT_MODEL": srt_model, "MODE": None if config.mode == "math" else config.mode})


def _print_gpu_in_use() -> None:
    if torch.cuda.device_count() > 1:
        gpu = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
        print(f"training with one process on GPU {gpu}, one of {torch.cuda.device_count()} visible GPUs")
