"""Complete runs of Phase 2 with a tiny model on GPUs, each in a process of its own."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from srt.common.files import write_jsonl

RUN = Path(__file__).parents[3] / "self-distillation" / "run_distillation.py"
STEPS = 10
SETTINGS = {
    "PROMPT_SUFFIX": "",
    "SAMPLER": "vllm",
    "REPORT_TO": "none",
    "LR": "1e-4",
    "WARMUP_STEPS": "0",
    "NUM_PROMPTS_PER_STEP": "16",
    "TRAIN_GLOBAL_BATCH_SIZE": "16",
    "MAX_TOTAL_SEQUENCE_LENGTH": "128",
    "SAMPLER_BATCH": "16",
    "GPU_MEMORY_UTILIZATION": "0.2",
    "MAX_NUM_STEPS": str(STEPS),
    "MAX_NUM_EPOCHS": "99",
    "SAVE_PERIOD": "1",
    "VAL_PERIOD": "2",
    "VAL_NUM_SAMPLES": "2",
    "ENFORCE_EAGER": "1",
    "TEACHER_SYNC": "steps",
    "TEACHER_SYNC_STEPS": "3",
}
Start = Callable[..., tuple[Path, subprocess.Popen]]


def runs_in(folder: Path, checkpoint: Path) -> Start:
    """start(engine, name, **settings) starts a run and returns its output folder and process."""
    problems = [{"id": f"p{n}", "problem": f"x = {n} [A] + 1", "answer": "7"} for n in range(9)]
    write_jsonl(folder / "problems.jsonl", problems)
    environment = (
        os.environ
        | SETTINGS
        | {
            "STUDENT_MODEL": str(checkpoint),
            "TRAIN_DATASET": str(folder / "problems.jsonl"),
            "VAL_DATASET": str(folder / "problems.jsonl"),
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
    )

    def start(engine: str, name: str, **settings: str) -> tuple[Path, subprocess.Popen]:
        env = environment | {"ENGINE": engine, "OUTPUT_DIR": str(folder / name)} | settings
        return folder / name, subprocess.Popen([sys.executable, RUN], env=env)

    return start


def kill_after_step_4(folder: Path, run: subprocess.Popen) -> None:
    while run.poll() is None and not (folder / "checkpoints" / "step_4").exists():
        time.sleep(0.1)
    run.send_signal(signal.SIGKILL)
    assert run.wait() == -signal.SIGKILL
