"""ENGINE=nemo-rl on a GPU: a whole run, killed and continued, whose first step is the local engine's.

About six minutes on one GPU, since NeMo-RL's workers take two to start. Runs with as many GPUs as are visible.
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

from opsd.nemo_rl.choice import why_no_nemo_rl
from srt.files import read_jsonl, write_jsonl

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.skipif(why_no_nemo_rl() is not None, reason=f"NeMo-RL was NOT run: {why_no_nemo_rl()}"),
]

RUN = Path(__file__).parents[2] / "self-distillation" / "run_distillation.py"
SETTINGS = {
    "PROMPT_SUFFIX": "", "SAMPLER": "vllm", "REPORT_TO": "none", "LR": "1e-4", "WARMUP_STEPS": "0",
    "NUM_PROMPTS_PER_STEP": "16", "TRAIN_GLOBAL_BATCH_SIZE": "16", "MAX_TOTAL_SEQUENCE_LENGTH": "128",
    "SAMPLER_BATCH": "16", "GPU_MEMORY_UTILIZATION": "0.2", "MAX_NUM_STEPS": "4", "MAX_NUM_EPOCHS": "99",
    "SAVE_PERIOD": "1", "VAL_PERIOD": "2", "VAL_NUM_SAMPLES": "2", "ENFORCE_EAGER": "1", "TEACHER_SYNC_STEPS": "3",
}  # fmt: skip


@pytest.mark.timeout(1200)
def test_a_killed_and_continued_run_starts_as_the_local_engines_does(tiny_checkpoint, tmp_path):
    problems = [{"id": f"p{n}", "problem": f"x = {n} [A] + 1", "answer": "7"} for n in range(9)]
    write_jsonl(tmp_path / "problems.jsonl", problems)
    environment = os.environ | SETTINGS | {
        "STUDENT_MODEL": str(tiny_checkpoint), "TRAIN_DATASET": str(tmp_path / "problems.jsonl"),
        "VAL_DATASET": str(tmp_path / "problems.jsonl"), "PYTHONPATH": os.pathsep.join(sys.path),
    }  # fmt: skip

    def start(engine, **settings):
        own = environment | {"ENGINE": engine, "OUTPUT_DIR": str(tmp_path / engine)} | settings
        return subprocess.Popen([sys.executable, RUN], env=own)

    assert start("local", MAX_NUM_STEPS="1", VAL_PERIOD="0").wait(300) == 0
    first = start("nemo-rl")
    while first.poll() is None and not (tmp_path / "nemo-rl" / "checkpoints" / "step_2").exists():
        time.sleep(0.1)
    first.send_signal(signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL
    assert start("nemo-rl").wait(400) == 0

    local, nemo = (read_jsonl(tmp_path / engine / "metrics.jsonl") for engine in ("local", "nemo-rl"))
    assert [line["step"] for line in nemo] == [0, 1, 2, 3]
    for name in ("kl", "entropy", "teacher_entropy", "grad_norm"):
        assert nemo[0][name] == pytest.approx(local[0][name], rel=0.05), name
    assert all(line["logprob_gap"] < 0.05 for line in nemo)  # nats: vLLM has the trainer's weights at every step
    assert "val_avg_at_k" in nemo[1]
    config = json.loads((tmp_path / "nemo-rl" / "student" / "config.json").read_text())
    assert config["architectures"] == ["Qwen3ForCausalLM"]
