"""ENGINE=nemo-rl on one and two GPUs: complete runs, killed and continued; step 1 matches the local engine.

A run takes about four minutes, one of them to start NeMo-RL's workers. No other NeMo-RL job may use these GPUs
meanwhile: its workers find each other through a socket named after the GPU.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from opsd.select_engine import why_no_nemo_rl
from srt.common.files import read_jsonl, write_jsonl

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.skipif(why_no_nemo_rl() is not None, reason=f"NeMo-RL was NOT run: {why_no_nemo_rl()}"),
]

RUN = Path(__file__).parents[2] / "self-distillation" / "run_distillation.py"
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


LAYOUTS = {
    "one GPU": {"GPUS_PER_NODE": "1"},
    "data parallel": {"GPUS_PER_NODE": "2", "TENSOR_PARALLEL_SIZE": "1", "SAMPLER_TENSOR_PARALLEL_SIZE": "1"},
    "tensor parallel": {"GPUS_PER_NODE": "2", "TENSOR_PARALLEL_SIZE": "2", "SAMPLER_TENSOR_PARALLEL_SIZE": "2"},
    "vLLM on its own": {"GPUS_PER_NODE": "2", "ROLLOUT_GPUS": "1"},
}


@pytest.fixture(scope="module")
def start(tiny_checkpoint, tmp_path_factory):
    """start(engine, name, **settings) starts a run and returns its output folder and process."""
    folder = tmp_path_factory.mktemp("runs")
    problems = [{"id": f"p{n}", "problem": f"x = {n} [A] + 1", "answer": "7"} for n in range(9)]
    write_jsonl(folder / "problems.jsonl", problems)
    environment = (
        os.environ
        | SETTINGS
        | {
            "STUDENT_MODEL": str(tiny_checkpoint),
            "TRAIN_DATASET": str(folder / "problems.jsonl"),
            "VAL_DATASET": str(folder / "problems.jsonl"),
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
    )

    def start(engine, name, **settings):
        env = environment | {"ENGINE": engine, "OUTPUT_DIR": str(folder / name)} | settings
        return folder / name, subprocess.Popen([sys.executable, RUN], env=env)

    return start


@pytest.fixture(scope="module")
def first_step(start):
    """The local engine's metrics."""
    folder, process = start("local", "local", MAX_NUM_STEPS="1", VAL_PERIOD="0")
    assert process.wait(300) == 0
    return read_jsonl(folder / "metrics.jsonl")[0]


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_killed_and_continued_run_starts_like_the_local_engine(start, first_step, layout):
    settings = LAYOUTS[layout]
    if torch.cuda.device_count() < int(settings["GPUS_PER_NODE"]):
        pytest.skip("needs two GPUs")
    folder, killed = start("nemo-rl", layout, **settings)
    while killed.poll() is None and not (folder / "checkpoints" / "step_4").exists():
        time.sleep(0.1)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    _, continued = start("nemo-rl", layout, **settings)
    assert continued.wait(400) == 0

    lines = read_jsonl(folder / "metrics.jsonl")
    assert [line["step"] for line in lines] == list(range(STEPS))
    for name in ("kl", "entropy", "teacher_entropy", "grad_norm"):
        assert lines[0][name] == pytest.approx(first_step[name], rel=0.05), name
    assert all(line["logprob_gap"] < 0.05 for line in lines)  # nats: vLLM has the trainer's weights in every step
    assert "val_avg_at_k" in lines[1]
    config = json.loads((folder / "student" / "config.json").read_text())
    assert config["architectures"] == ["Qwen3ForCausalLM"]


@pytest.mark.timeout(600)
def test_vllm_on_its_own_gpu_rolls_out_ahead(start):
    """With weights that do not move, tokens of the step before have the log-probs of this one's."""
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    split = {"GPUS_PER_NODE": "2", "ROLLOUT_GPUS": "1", "ROLLOUT_AHEAD": "1"}
    folder, process = start("nemo-rl", "ahead", **split, LR="1e-12", TEACHER_SYNC="none", TEACHER_SYNC_STEPS="0")
    assert process.wait(500) == 0
    lines = read_jsonl(folder / "metrics.jsonl")
    assert [line["token_age"] for line in lines] == [0] + (STEPS - 1) * [1]
    gaps = [line["logprob_gap"] for line in lines[:1]] + [line["logprob_gap_age1"] for line in lines[1:]]
    assert max(gaps) < 0.05
