"""Updates on the GPU: against the CPU's, and with optimizer and teacher in main memory; vLLM with LoRA weights."""

from pathlib import Path

import pytest
import torch

from opsd.config import RunConfig
from opsd.local.optimizer_step import OptimizerStep
from opsd.local.student import Student
from opsd.local.teacher import open_teacher
from opsd.metrics import TokenMetrics
from opsd.pairs import build_pair
from opsd.rollouts import Rollout
from quickstart.base_model import new_model, save_checkpoint
from quickstart.tokenizer import build_tokenizer
from srt.config import load_config
from srt.config_groups import PromptConfig
from srt.contract.checkpoint import layout_of_checkpoint
from srt.contract.records import Problem
from srt.sampling.base import SampleRequest, SamplingConfig, sample_all
from srt.sampling.vllm_inprocess import VllmSampler

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
X = "x = 1 [A] + 1"


@pytest.fixture(scope="module")
def layout(tiny_checkpoint):
    return layout_of_checkpoint(str(tiny_checkpoint), PromptConfig("math", None, None, "", None))


@pytest.fixture(scope="module")
def other_checkpoint(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("other") / "other-qwen3"
    tokenizer = build_tokenizer()
    save_checkpoint(new_model(tokenizer, seed=1), tokenizer, folder)
    return folder


def make_config(student, teacher=None, **settings) -> RunConfig:
    settings = {
        "student_model": student,
        "teacher_model": teacher or student,
        "max_grad_norm": 0,
        "tokens_per_micro_batch": 400,
        "warmup_steps": 0,
    } | settings
    return load_config(RunConfig, "distill", [f"{name}={value}" for name, value in settings.items()])


def make_pairs(layout):
    """Responses of different lengths, with and without a whole micro-batch to themselves."""
    text = "A 1 + 1 = 2\nB 2 * 3 = 6\n" * 6
    pairs = []
    for length in (1, 3, 7, 20, 33, 64, 65):
        y = layout.tokenizer.encode(text)[:length]
        rollout = Rollout(Problem("p", X, "7"), layout.chat(X), y, [-1.0] * length, "length", 0)
        pairs.append(build_pair(rollout, layout, 500))
    return pairs


@pytest.mark.parametrize("gradient_checkpointing", [0, 1])
def test_a_bf16_update_on_the_gpu_matches_the_cpu(
    tiny_checkpoint, other_checkpoint, layout, monkeypatch, gradient_checkpointing
):
    pairs, results = make_pairs(layout), {}
    for device in ("cuda", "cpu"):
        monkeypatch.setattr("srt.common.models.default_device", lambda device=device: torch.device(device))
        config = make_config(
            tiny_checkpoint, other_checkpoint, lr=1e-60, gradient_checkpointing=gradient_checkpointing
        )
        student = Student(config, None)
        teacher = open_teacher(config, student, None)
        teacher.model.to(torch.bfloat16 if device == "cuda" else torch.float32)  # both hold bf16 values
        result = OptimizerStep(config, student, teacher, 0, 10, None).run(pairs)
        results[device] = (TokenMetrics(result.scored).means()["kl"], result.grad_norm)
    assert results["cuda"] == pytest.approx(results["cpu"], rel=0.05)


def test_offloaded_moments_and_teacher_change_no_update_and_leave_the_gpu(
    tiny_checkpoint, other_checkpoint, layout
):
    pairs, weights, left = make_pairs(layout), {}, {}
    for offload in (False, True):
        torch.manual_seed(0)
        config = make_config(tiny_checkpoint, other_checkpoint, lr=1e-3)
        student = Student(config, None)
        before = torch.cuda.memory_allocated()  # of the student alone
        teacher = open_teacher(config, student, None, offload)
        step = OptimizerStep(config, student, teacher, 0, 10, None, offload)
        for _ in range(3):  # the moments return twice
            step.run(pairs)
        weights[offload] = {name: tensor.clone() for name, tensor in student.named_weights()}
        left[offload] = torch.cuda.memory_allocated() - before
        del step, teacher, student
    assert all(torch.equal(weights[True][name], weights[False][name]) for name in weights[False])
    size = sum(tensor.numel() for tensor in weights[False].values())
    # Two fp32 moments and a bf16 teacher, 10 bytes a parameter, stay on the GPU without offload.
    assert left[False] - left[True] > 9 * size


@pytest.mark.vllm
def test_vllm_samples_from_a_student_with_lora_weights(tiny_checkpoint, layout):
    student = Student(make_config(tiny_checkpoint, lora_rank=4), None)
    with torch.no_grad():
        for name, weight in student.model.named_parameters():
            if ".lora_" in name:
                weight.add_(0.05 * torch.randn_like(weight))
    settings = SamplingConfig(1.0, 1.0, tuple(layout.eot_ids))
    # can_sleep stays off: vLLM allows one engine with sleep mode per process, test_rollouts_on_gpu.py's
    options = {"max_model_len": 128, "max_batch": 8, "memory_utilization": 0.2}
    sampler = VllmSampler(str(tiny_checkpoint), settings, **options)
    prompt = layout.chat(X)
    try:
        sampler.update_weights(student.named_weights())
        samples = sample_all(sampler, [SampleRequest(prompt, seed=seed, max_tokens=32) for seed in range(8)])
    finally:
        sampler.close()

    @torch.no_grad()
    def gap() -> float:
        gaps = []
        for sample in samples:
            ids = torch.tensor([prompt + sample.token_ids], device="cuda")
            with torch.autocast("cuda", torch.bfloat16):
                logits = student.model(input_ids=ids).logits[0, len(prompt) - 1 : -1].float()
            expected = logits.log_softmax(-1).gather(-1, ids[0, len(prompt) :, None])[:, 0].cpu()
            gaps.append((expected - torch.tensor(sample.logprobs)).abs())
        return float(torch.cat(gaps).mean())

    with_adapter = gap()
    with student.adapter.disable_adapter():
        without = gap()
    assert with_adapter < 0.05 and with_adapter < 0.3 * without
