"""vLLM's engines on a GPU sample from the model's distribution, and a seed determines a sample."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from srt.common.models import load_model
from srt.config_groups import PromptConfig
from srt.contract.checkpoint import layout_of_checkpoint
from srt.sampling.base import SampleRequest, SamplingConfig, sample_all
from srt.sampling.vllm_parallel import VllmParallelSampler

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.vllm,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
SCRIPT = Path(__file__).parents[1] / "srt" / "helpers" / "engines_and_groups.py"
SAMPLES = 16_384
TOP_P = 0.9


@pytest.fixture(scope="module")
def chat(tiny_checkpoint):
    return layout_of_checkpoint(str(tiny_checkpoint), PromptConfig("math", None, None, "", None)).chat(
        "x = 1 [A] + 1"
    )


@pytest.fixture(scope="module")
def sampler(tiny_checkpoint):
    settings = SamplingConfig(temperature=1.0, top_p=TOP_P, eot_ids=())
    sampler = VllmParallelSampler(
        str(tiny_checkpoint), settings, max_model_len=64, max_batch=256, memory_utilization=0.1
    )
    yield sampler
    sampler.close()


@pytest.fixture(scope="module")
def samples(sampler, chat):
    """Token ids of SAMPLES two-token samples, indexed by seed."""
    requests = [SampleRequest(chat, seed, max_tokens=2) for seed in range(SAMPLES)]
    return torch.tensor([sample.token_ids for sample in sample_all(sampler, requests)])


@torch.no_grad()
def nucleus(model, ids):
    """The next token's distribution, restricted to the smallest set of tokens with probability TOP_P."""
    probs, order = (
        model(input_ids=torch.tensor([ids], device="cuda")).logits[0, -1].float().softmax(-1).sort(descending=True)
    )
    probs[probs.cumsum(0) - probs >= TOP_P] = 0
    return torch.zeros_like(probs).scatter_(0, order, probs / probs.sum()).cpu()


def excess(sampled, expected):
    """Total variation distance between token frequencies and a distribution, minus that expected by chance."""
    distance = (torch.bincount(sampled, minlength=len(expected)) / len(sampled) - expected).abs().sum() / 2
    return float(distance) - math.sqrt(int((expected > 0).sum()) / (2 * math.pi * len(sampled)))


def test_first_tokens_follow_the_models_nucleus(tiny_checkpoint, chat, samples):
    expected = nucleus(load_model(str(tiny_checkpoint), "bfloat16"), chat)
    assert excess(samples[:, 0], expected) < 0.02


def test_second_tokens_follow_it_independently_of_the_first_tokens_noise(tiny_checkpoint, chat, samples):
    model = load_model(str(tiny_checkpoint), "bfloat16")
    firsts, counts = samples[:, 0].unique(return_counts=True)
    expected = sum(
        count * nucleus(model, chat + [int(first)]) for first, count in zip(firsts, counts, strict=True)
    )
    assert excess(samples[:, 1], expected / SAMPLES) < 0.02
    repeats = (samples[:, 0] == samples[:, 1]).float().mean()
    by_chance = sum(
        count * nucleus(model, chat + [int(first)])[first] for first, count in zip(firsts, counts, strict=True)
    )
    assert abs(float(repeats - by_chance / SAMPLES)) < 0.01


def test_a_seed_determines_a_sample_regardless_of_the_batch(sampler, chat, samples):
    few = sample_all(sampler, [SampleRequest(chat, seed, max_tokens=2) for seed in range(5, 500, 7)])
    same = [sample.token_ids == samples[seed].tolist() for sample, seed in zip(few, range(5, 500, 7), strict=True)]
    assert sum(same) / len(same) > 0.9  # bf16 products differ a little between batch sizes


def test_an_engine_that_is_closed_leaves_no_process_group_of_which_nccl_would_warn(tiny_checkpoint):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, SCRIPT, tiny_checkpoint, "alone"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert [line for line in done.stdout.splitlines() if "group" in line] == ["open: group", "closed: no group"]
    assert "destroy_process_group" not in done.stderr
