"""Rollouts through vLLM (its CPU build is enough) while the student's weights change."""

import pytest
import torch

from srt.common.files import read_jsonl
from srt.common.models import load_model
from srt.contract.records import Problem
from srt.sampling.base import SampleRequest, SamplingConfig, sample_all
from srt.sampling.transformers import TransformersSampler
from srt.sampling.vllm_inprocess import VllmSampler
from tests.opsd.helpers.runs import train_run

pytestmark = pytest.mark.vllm

X = "x = 1 [A] + 1"


def test_vllm_samples_from_the_weights_in_training_and_not_from_its_cache(tiny_checkpoint, layout):
    greedy = SamplingConfig(0.0, 1.0, tuple(layout.eot_ids))
    student = load_model(str(tiny_checkpoint), "float32")
    theirs = TransformersSampler(student, layout.tokenizer.pad_token_id, greedy, 4)
    ours = VllmSampler(str(tiny_checkpoint), greedy, max_model_len=512, max_batch=4, can_sleep=True)
    prompt = layout.chat(" ".join([X] * 40))
    # Only whole blocks of a prompt are cached.
    assert len(prompt) > 2 * ours.engine.vllm_config.cache_config.block_size
    requests = [SampleRequest(prompt, seed=0, max_tokens=24)]
    samples = []
    try:
        for seed in (0, 1):
            torch.manual_seed(seed)
            with torch.no_grad():  # an update: other tokens follow
                for parameter in student.parameters():
                    parameter.add_(0.05 * torch.randn_like(parameter))
            expected = sample_all(theirs, requests)[0]
            ours.update_weights(student.named_parameters())
            sample = sample_all(ours, requests)[0]
            ours.sleep()
            assert sample.token_ids == expected.token_ids
            torch.testing.assert_close(
                torch.tensor(sample.logprobs), torch.tensor(expected.logprobs), atol=1e-4, rtol=0
            )
            samples.append(sample.token_ids)
    finally:
        ours.close()
    assert samples[0] != samples[1]


def test_an_engine_with_vllm_stays_on_policy(make_run, grader, coin_checkpoint):
    problems = [Problem(id=str(digit), x=f"x = {digit} [A] + 1", answer="7") for digit in range(8)]
    run = make_run(str(coin_checkpoint), problems, sampler="vllm", max_num_steps=3, lr=1e-3)
    train_run(run, grader)
    metrics = read_jsonl(run.output_dir / "metrics.jsonl")
    assert len(metrics) == 3
    assert all(line["logprob_gap"] < 1e-4 for line in metrics)  # stale weights would show here
