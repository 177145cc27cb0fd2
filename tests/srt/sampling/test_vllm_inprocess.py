"""Sampling with vLLM (its CPU build is enough), compared with transformers on the same checkpoint."""

import logging
from dataclasses import replace

import pytest
import torch

from srt.common.models import load_model, load_tokenizer
from srt.sampling import vllm_inprocess
from srt.sampling.base import SampleRequest, SamplingConfig, sample_all
from srt.sampling.from_config import choose_backend, open_sampler
from srt.sampling.transformers import TransformersSampler

pytestmark = pytest.mark.vllm

GREEDY = SamplingConfig(0.0, 1.0, (0,))  # token 0 (padding) ends nothing in practice
SAMPLED = SamplingConfig(1.0, 0.9, (2,))
PROMPTS = ["x = 1 [A] + 2", "x = 9", "A 1 + 2 = 3\nB 3 * 4 = 2\n"]


@pytest.fixture(scope="module")
def sampler(tiny_checkpoint):
    """One engine for all tests (its start takes seconds); a test sets the config that it needs."""
    sampler = open_sampler("vllm", str(tiny_checkpoint), GREEDY, max_model_len=256, max_batch=16, dtype="float32")
    yield sampler
    sampler.close()


@pytest.fixture(scope="module")
def model(tiny_checkpoint):
    return load_model(str(tiny_checkpoint), "float32").eval()


@pytest.fixture(scope="module")
def prompts(tiny_checkpoint):
    tokenizer = load_tokenizer(str(tiny_checkpoint))
    return [tokenizer.encode(text) for text in PROMPTS]


def sample(sampler, config, requests):
    sampler.config = config
    return sample_all(sampler, requests)


def test_greedy_ids_and_logprobs_are_those_of_transformers(sampler, model, prompts):
    requests = [SampleRequest(prompt, seed=0, max_tokens=24) for prompt in prompts]
    expected = sample_all(TransformersSampler(model, 0, GREEDY, max_batch=1), requests)
    for ours, theirs in zip(sample(sampler, GREEDY, requests), expected, strict=True):
        assert ours.token_ids == theirs.token_ids
        torch.testing.assert_close(torch.tensor(ours.logprobs), torch.tensor(theirs.logprobs), atol=1e-4, rtol=0)


def test_logprobs_are_those_of_the_model_at_any_temperature(sampler, model, prompts):
    request = SampleRequest(prompts[0], seed=4, max_tokens=24)
    for config in (SAMPLED, SamplingConfig(0.6, 0.5, (2,))):
        (drawn,) = sample(sampler, config, [request])
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([request.prompt_ids + drawn.token_ids])).logits[0]
        expected = torch.log_softmax(logits.float(), -1)[len(request.prompt_ids) - 1 : -1]
        expected = expected.gather(-1, torch.tensor(drawn.token_ids)[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(drawn.logprobs), expected, atol=1e-4, rtol=0)


def test_a_request_may_do_without_logprobs(sampler, prompts):
    requests = [SampleRequest(prompt, 3, 12, logprobs=index % 2 == 0) for index, prompt in enumerate(prompts)]
    samples = sample(sampler, SAMPLED, requests)
    assert [drawn.logprobs is not None for drawn in samples] == [request.logprobs for request in requests]
    everything = sample(sampler, SAMPLED, [replace(request, logprobs=True) for request in requests])
    assert [drawn.token_ids for drawn in samples] == [drawn.token_ids for drawn in everything]


def test_same_seed_same_sample_whatever_runs_beside_it(sampler, prompts):
    request = SampleRequest(prompts[0], seed=5, max_tokens=20)
    others = [SampleRequest(prompt, seed, 8 + 5 * seed) for seed, prompt in enumerate(prompts * 2)]
    (alone,) = sample(sampler, SAMPLED, [request])
    assert sample(sampler, SAMPLED, [*others[:3], request, *others[3:]])[3].token_ids == alone.token_ids


def test_different_seeds_differ(sampler, prompts):
    samples = sample(sampler, SAMPLED, [SampleRequest(prompts[0], seed, 12) for seed in range(12)])
    assert len({tuple(s.token_ids) for s in samples}) == 12


def test_samples_come_from_the_nucleus_of_top_p_and_from_all_of_it(sampler, model, prompts):
    """The nucleus: the most likely tokens, up to the one with which their probabilities exceed top_p."""
    top_p, request_count = 0.3, 300
    requests = [SampleRequest(prompts[0], seed, 1) for seed in range(request_count)]
    drawn = {s.token_ids[0] for s in sample(sampler, SamplingConfig(1.0, top_p, (2,)), requests)}
    with torch.no_grad():
        probabilities = model(input_ids=torch.tensor([prompts[0]])).logits[0, -1].softmax(-1)
    ordered, ids = probabilities.sort(descending=True)
    nucleus = ids[ordered.cumsum(0) - ordered < top_p].tolist()
    assert drawn <= set(nucleus)
    assert 10 < len(nucleus) < 0.5 * len(ids) and len(drawn) > 0.8 * len(nucleus)


def test_a_response_ends_with_its_end_of_turn_token(sampler, prompts):
    request = SampleRequest(prompts[0], 0, 12)
    (cut_off,) = sample(sampler, GREEDY, [request])
    assert (len(cut_off.token_ids), cut_off.finish_reason) == (12, "length")
    eot = cut_off.token_ids[5]
    first = cut_off.token_ids.index(eot)
    (ended,) = sample(sampler, SamplingConfig(0.0, 1.0, (0, eot)), [request])
    assert ended.token_ids == cut_off.token_ids[: first + 1]
    assert ended.finish_reason == "stop"
    assert len(ended.logprobs) == first + 1


def test_an_end_of_turn_at_the_limit_is_a_stop(sampler, prompts):
    (first,) = sample(sampler, GREEDY, [SampleRequest(prompts[0], 0, 1)])
    eot = first.token_ids[0]
    (ended,) = sample(sampler, SamplingConfig(0.0, 1.0, (eot,)), [SampleRequest(prompts[0], 0, 1)])
    assert (ended.token_ids, ended.finish_reason) == ([eot], "stop")


def test_the_models_own_eos_does_not_end_a_response(sampler, prompts):
    """Only `eot_ids` do: here the checkpoint's eos is sampled, and sampling continues."""
    requests = [SampleRequest(prompts[0], seed, 40) for seed in range(64)]
    samples = sample(sampler, SamplingConfig(1.0, 1.0, (0,)), requests)
    assert any(2 in s.token_ids[:-1] for s in samples)
    assert all(s.finish_reason == ("stop" if s.token_ids[-1] == 0 else "length") for s in samples)


def test_prompt_ids_are_used_unchanged(sampler, model, prompts):
    """Ids that the tokenizer would have merged, and special tokens in the middle."""
    prompt = [1, 90, 260, 2, 90, 2, 1, *prompts[0]]
    (ours,) = sample(sampler, GREEDY, [SampleRequest(prompt, 0, 8)])
    (theirs,) = sample_all(TransformersSampler(model, 0, GREEDY, 1), [SampleRequest(prompt, 0, 8)])
    assert ours.token_ids == theirs.token_ids


def test_samples_come_with_their_keys_as_they_finish(sampler, prompts):
    sampler.config = GREEDY
    for index, length in enumerate((30, 2, 10)):
        sampler.submit(("key", index, None), SampleRequest(prompts[index], 0, length))
    assert sampler.pending == 3
    order = []
    while sampler.pending:
        order += [(key, len(s.token_ids)) for key, s in sampler.poll()]
    assert order == [(("key", 1, None), 2), (("key", 2, None), 10), (("key", 0, None), 30)]
    assert list(sampler.poll()) == []


def test_what_is_interrupted_is_the_beginning_of_the_sample_and_nothing_is_left(sampler, prompts):
    requests = [SampleRequest(prompts[0], seed, 40) for seed in range(3)]
    whole = SamplingConfig(1.0, 1.0, (0,))
    expected = sample(sampler, whole, requests)
    for key, request in enumerate(requests):
        sampler.submit(("key", key), request)
    for _ in range(10):
        assert sampler.poll() == []
    stopped = dict(sampler.interrupt())
    assert sampler.pending == 0 and not sampler.engine.has_unfinished_requests()
    for key, alone in enumerate(expected):
        beginning = stopped["key", key]
        length = len(beginning.token_ids)
        assert 0 < length < 40 and beginning.finish_reason == "interrupted"
        assert beginning.token_ids == alone.token_ids[:length]
        assert beginning.logprobs == pytest.approx(alone.logprobs[:length], abs=1e-4)
    assert sampler.interrupt() == []
    assert [s.token_ids for s in sample(sampler, whole, requests)] == [s.token_ids for s in expected]


def test_a_request_that_has_not_begun_is_interrupted_without_tokens(sampler, prompts):
    for key, prompt in enumerate(prompts):
        sampler.submit(key, SampleRequest(prompt, 0, 8))
    assert {(len(s.token_ids), len(s.logprobs)) for _, s in sampler.interrupt()} == {(0, 0)}


@pytest.mark.parametrize(("blocks", "waits"), [(7, True), (None, False)])
def test_requests_that_wait_for_the_cache_are_measured(tiny_checkpoint, prompts, monkeypatch, blocks, waits):
    """One block is kept free by vLLM; a request of 14 + 500 tokens grows to 5 blocks of 128."""
    arguments = vllm_inprocess.engine_arguments
    monkeypatch.setattr(
        vllm_inprocess,
        "engine_arguments",
        lambda *a, **k: arguments(*a, **k) | {"num_gpu_blocks_override": blocks},
    )
    sampler = vllm_inprocess.VllmSampler(str(tiny_checkpoint), GREEDY, max_model_len=512, max_batch=8)
    try:
        block_size = sampler.engine.vllm_config.cache_config.block_size
        requests = [SampleRequest(prompts[0], seed, 500) for seed in range(8)]
        assert sampler.metrics() == {}
        samples = sample_all(sampler, requests)
        measured = sampler.metrics()
        assert {len(s.token_ids) for s in samples} == {500}
        assert measured["requests_running"] <= 8
        if waits:
            assert 1 < 500 / block_size < blocks
            assert measured["preemptions"] > 0 and measured["requests_waiting"] > 0
            assert measured["waited_for_cache"] > 0.1 and measured["kv_cache_use"] > 0.8
            assert measured["requests_running"] < 6
        else:
            assert measured["preemptions"] == measured["waited_for_cache"] == 0
            assert measured["requests_running"] > 6 and 0 < measured["kv_cache_use"] < 0.5
    finally:
        sampler.close()


def test_vllms_warnings_about_modules_without_weights_are_hidden_and_its_errors_are_not(sampler):
    logger = logging.getLogger("vllm.model_executor.model_loader.reload.layerwise")
    shown = [bool(logger.filter(logging.LogRecord("", level, "", 0, "", (), None))) for level in (30, 40)]
    assert shown == [False, True]


def test_auto_selects_vllm_and_says_so(capsys):
    assert choose_backend("auto") == "vllm"
    assert "sampler: vllm (SAMPLER=auto" in capsys.readouterr().out
