"""vLLM next to the student on one GPU: current weights after each wake-up, memory released during sleep."""

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from srt.common.files import read_jsonl, write_jsonl
from srt.common.models import load_model
from srt.config_groups import PromptConfig
from srt.contract.checkpoint import layout_of_checkpoint
from srt.sampling.base import SampleRequest, SamplingConfig, sample_all
from srt.sampling.vllm_inprocess import VllmSampler

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.vllm,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
RUN = Path(__file__).parents[2] / "self-distillation" / "run_distillation.py"


@torch.no_grad()
def mean_gap(student, prompt, samples):
    """Mean absolute difference between the samples' log-probs and the student's fp32 ones, in nats per token."""
    gaps = []
    for sample in samples:
        ids = torch.tensor([prompt + sample.token_ids], device="cuda")
        logits = student(input_ids=ids).logits[0, len(prompt) - 1 : -1].float()
        expected = logits.log_softmax(-1).gather(-1, ids[0, len(prompt) :, None])[:, 0].cpu()
        gaps.append((expected - torch.tensor(sample.logprobs)).abs())
    return float(torch.cat(gaps).mean())


def test_vllm_wakes_with_the_students_weights_and_releases_memory_during_sleep(tiny_checkpoint):
    layout = layout_of_checkpoint(str(tiny_checkpoint), PromptConfig("math", None, None, "", None))
    student = load_model(str(tiny_checkpoint), "float32")
    settings = SamplingConfig(1.0, 1.0, tuple(layout.eot_ids))
    sampler = VllmSampler(
        str(tiny_checkpoint),
        settings,
        max_model_len=128,
        max_batch=8,
        memory_utilization=0.2,
        can_sleep=True,
    )
    prompt = layout.chat("x = 1 [A] + 1")
    requests = [SampleRequest(prompt, seed=seed, max_tokens=32) for seed in range(8)]
    torch.manual_seed(0)
    try:
        for _ in range(3):
            before = copy.deepcopy(student)
            with torch.no_grad():
                for parameter in student.parameters():
                    parameter.add_(0.05 * torch.randn_like(parameter))
            sampler.update_weights(student.named_parameters())
            awake = torch.cuda.mem_get_info()[0]
            samples = sample_all(sampler, requests)
            sampler.sleep()
            asleep, total = torch.cuda.mem_get_info()
            assert asleep - awake > 0.1 * total
            gap = mean_gap(student, prompt, samples)
            assert gap < 0.05  # nats; bf16 vs. fp32
            assert gap < 0.2 * mean_gap(before, prompt, samples)  # far below the gap of stale weights
    finally:
        sampler.close()


@pytest.mark.timeout(600)
def test_a_run_rolls_out_ahead_beside_the_trainer(tiny_checkpoint, tmp_path):
    """With weights that do not move, tokens of the step before have the log-probs of this one's."""
    problems = [{"id": f"p{n}", "problem": f"x = {n % 9} [A] + 1", "answer": "7"} for n in range(96)]
    write_jsonl(tmp_path / "problems.jsonl", problems)
    settings = {
        "ENGINE": "local",
        "SAMPLER": "vllm",
        "ROLLOUT_AHEAD": "1",
        "GPU_MEMORY_UTILIZATION": "0.3",
        "STUDENT_MODEL": str(tiny_checkpoint),
        "TRAIN_DATASET": str(tmp_path / "problems.jsonl"),
        "VAL_DATASET": str(tmp_path / "problems.jsonl"),
        "VAL_PERIOD": "2",
        "VAL_NUM_SAMPLES": "1",
        "PROMPT_SUFFIX": "",
        "REPORT_TO": "none",
        "LR": "1e-12",
        "WARMUP_STEPS": "0",
        "NUM_PROMPTS_PER_STEP": "16",
        "TRAIN_GLOBAL_BATCH_SIZE": "8",
        "MAX_TOTAL_SEQUENCE_LENGTH": "400",
        "MAX_NUM_STEPS": "6",
        "OUTPUT_DIR": str(tmp_path / "run"),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    assert (
        subprocess.run([sys.executable, RUN], env=os.environ | settings, timeout=500, check=False).returncode == 0
    )
    lines = read_jsonl(tmp_path / "run" / "metrics.jsonl")
    assert [line["token_age"] for line in lines] == [0] + 5 * [1]
    assert [line["trained_responses"] for line in lines] == 6 * [16]
    gaps = [line["logprob_gap"] for line in lines[:1]] + [line["logprob_gap_age1"] for line in lines[1:]]
    assert max(gaps) < 0.05  # nats: bf16 in vLLM and in the trainer
