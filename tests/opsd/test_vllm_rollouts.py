"""Rollouts through vLLM (its CPU build is enough) while the student's weights change."""

import pytest
import torch
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

from opsd.checkpoint_names import as_in_checkpoint
from quickstart.tokenizer import build_tokenizer
from srt.common.errors import UserError
from srt.common.files import read_jsonl
from srt.common.models import load_model
from srt.contract.records import Problem
from srt.sampling.base import SampleRequest, SamplingConfig, sample_all
from srt.sampling.transformers import TransformersSampler
from srt.sampling.vllm_inprocess import VllmSampler
from tests.opsd.helpers.problems import problem
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


def test_experts_are_refreshed_and_a_parameter_left_out_is_noticed(tmp_path, layout):
    tokenizer = build_tokenizer()
    torch.manual_seed(0)
    config = Qwen3MoeConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        moe_intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        num_experts=4,
        num_experts_per_tok=2,
        initializer_range=0.1,
    )
    Qwen3MoeForCausalLM(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    student = load_model(str(tmp_path), "float32").eval()
    greedy = SamplingConfig(0.0, 1.0, tuple(layout.eot_ids))
    theirs = TransformersSampler(student, layout.tokenizer.pad_token_id, greedy, 4)
    ours = VllmSampler(str(tmp_path), greedy, max_model_len=64, max_batch=4, can_sleep=True)
    requests = [SampleRequest(layout.chat(X), seed=0, max_tokens=12)]
    try:
        for _ in range(2):
            with torch.no_grad():
                for name, parameter in student.named_parameters():
                    if ".experts." in name:
                        parameter.add_(0.3 * torch.randn_like(parameter))
            ours.update_weights(as_in_checkpoint(student, student.named_parameters()))
            expected, sample = (sample_all(sampler, requests)[0] for sampler in (theirs, ours))
            assert sample.token_ids == expected.token_ids
            assert sample.logprobs == pytest.approx(expected.logprobs, abs=1e-4)
        weights = as_in_checkpoint(student, student.named_parameters())
        with pytest.raises(UserError, match=r"vLLM took no weight for 1 parameters of .*experts.*w2_weight"):
            ours.update_weights(
                (name, weight) for name, weight in weights if not ("layers.1" in name and "down_proj" in name)
            )
    finally:
        ours.close()


def test_an_engine_with_vllm_stays_on_policy(make_run, grader, coin_checkpoint):
    problems = [Problem(id=str(digit), x=f"x = {digit} [A] + 1", answer="7") for digit in range(8)]
    run = make_run(str(coin_checkpoint), problems, sampler="vllm", max_num_steps=3, lr=1e-3)
    train_run(run, grader)
    metrics = read_jsonl(run.output_dir / "metrics.jsonl")
    assert len(metrics) == 3
    assert all(line["logprob_gap"] < 1e-4 for line in metrics)  # stale weights would show here


def test_what_vllm_was_interrupted_in_goes_on_under_the_next_weights(make_run, grader, tiny_checkpoint):
    """Prompts of several lengths, so that responses up to the limit end at several times."""
    problems = [problem("7", X + " [B] - 2" * (n % 5), f"p{n}") for n in range(16)]
    more = {"num_prompts_per_step": 4, "train_global_batch_size": 4, "max_num_epochs": 1, "over_issue": 0.5}
    run = make_run(str(tiny_checkpoint), problems, sampler="vllm", lr=1e-3, log_samples_period=1, **more)
    train_run(run, grader)
    metrics = read_jsonl(run.output_dir / "metrics.jsonl")
    assert [line["trained_responses"] for line in metrics] == [4] * 4
    assert all(line["logprob_gap"] < 1e-4 for line in metrics)
    assert metrics[0]["stale_tokens"] == 0 < max(line["stale_tokens"] for line in metrics)
    assert max(line.get("logprob_gap_age1", 0) for line in metrics) > 1e-3
    trained = [line["id"] for line in read_jsonl(run.output_dir / "samples.jsonl")]
    assert sorted(trained) == sorted(p.id for p in problems)


def test_vllm_samples_the_next_step_while_this_one_trains(make_run, grader, tiny_checkpoint):
    problems = [problem("7", X + " [B] - 2" * (n % 5), f"p{n}") for n in range(16)]
    more = {"max_num_epochs": 1, "rollout_ahead": 1, "log_samples_period": 1}
    run = make_run(str(tiny_checkpoint), problems, sampler="vllm", lr=1e-3, **more)
    train_run(run, grader)
    metrics = read_jsonl(run.output_dir / "metrics.jsonl")
    assert [line["token_age"] for line in metrics] == [0, 1, 1, 1]
    assert metrics[0]["logprob_gap"] < 1e-4 < 1e-3 < min(line["logprob_gap_age1"] for line in metrics[1:])
    assert all(line["requests_running"] > 0 for line in metrics)
    trained = {step: [] for step in range(4)}
    for line in read_jsonl(run.output_dir / "samples.jsonl"):
        trained[line["step"]].append(line["id"])
    assert trained == {step: [p.id for p in run.problems(step)] for step in range(4)}
