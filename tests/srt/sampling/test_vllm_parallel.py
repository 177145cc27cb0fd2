"""Two vLLM engines in separate processes (the CPU build is enough). The last test kills one of them."""

import multiprocessing
import os
import signal

import pytest

from srt.common.errors import UserError
from srt.common.models import load_tokenizer
from srt.sampling.base import SampleRequest, SamplingConfig, sample_all
from srt.sampling.from_config import open_sampler
from srt.sampling.vllm_parallel import VllmParallelSampler, engine_count
from tests.families.models import tiny

SAMPLED = SamplingConfig(1.0, 0.9, (2,))
PROMPTS = ["x = 1 [A] + 2", "x = 9", "A 1 + 2 = 3\nB 3 * 4 = 2\n"]

vllm = pytest.mark.vllm


@pytest.fixture(scope="module")
def sampler(tiny_checkpoint):
    sampler = open_sampler("vllm", str(tiny_checkpoint), SAMPLED, max_model_len=256, max_batch=8, engines=2)
    yield sampler
    sampler.close()


@pytest.fixture(scope="module")
def requests(tiny_checkpoint):
    """Two per group, six groups, of different lengths."""
    tokenizer = load_tokenizer(str(tiny_checkpoint))
    prompts = [tokenizer.encode(text) for text in PROMPTS]
    return [SampleRequest(prompts[n % 3], seed=n, max_tokens=10 + 9 * n, group=n // 2) for n in range(12)]


@vllm
def test_samples_equal_those_of_the_engine_in_this_process(sampler, requests, tiny_checkpoint):
    one = open_sampler("vllm", str(tiny_checkpoint), SAMPLED, max_model_len=256, max_batch=8)
    for config in (SAMPLED, SamplingConfig(0.0, 1.0, (2,))):
        one.config = sampler.config = config
        pairs = zip(sample_all(sampler, requests), sample_all(one, requests), strict=True)
        assert all(
            (ours.token_ids, ours.finish_reason) == (theirs.token_ids, theirs.finish_reason)
            for ours, theirs in pairs
        )
    one.close()
    sampler.config = SAMPLED


@vllm
def test_a_seed_gives_the_same_sample_on_either_engine_whatever_runs_beside_it(sampler, requests):
    twice = [SampleRequest(r.prompt_ids, r.seed, r.max_tokens, group) for r in requests for group in "ab"]
    samples = [sample.token_ids for sample in sample_all(sampler, twice)]
    assert {sampler._rank_of["a"], sampler._rank_of["b"]} == {0, 1}
    assert samples[::2] == samples[1::2]
    assert sample_all(sampler, [requests[7]])[0].token_ids == samples[14]


@vllm
def test_a_group_stays_on_the_engine_with_its_prefix_and_new_groups_go_to_the_least_busy_one(sampler, requests):
    for n, request in enumerate(requests):
        sampler.submit(n, request)
    first = dict(sampler._ranks)
    assert [first[n] for n in range(0, 12, 2)] == [first[n] for n in range(1, 12, 2)]
    assert sorted(first.values()) == [0] * 6 + [1] * 6
    while sampler.pending:
        sampler.poll()
    assert sampler._load == [0, 0]
    sampler.submit("revision", requests[4])
    assert sampler._ranks["revision"] == first[4]
    sampler.drop()


@vllm
def test_samples_come_with_their_keys_and_without_logprobs(sampler, requests):
    alone = {n: sample_all(sampler, [request])[0] for n, request in enumerate(requests)}
    for n, request in enumerate(requests):
        sampler.submit(n, request)
    assert sampler.pending == 12
    together = {}
    while sampler.pending:
        together.update(sampler.poll())
    assert together == alone
    assert {sample.logprobs for sample in together.values()} == {None}
    assert sampler.poll() == []


@vllm
def test_dropped_requests_are_forgotten(sampler, requests):
    for n, request in enumerate(requests):
        sampler.submit(n, request)
    sampler.drop()
    assert (sampler.pending, sampler.poll()) == (0, [])
    sampler.submit("later", requests[0])
    while sampler.pending:
        assert [key for key, _ in sampler.poll()] in ([], ["later"])


@vllm
def test_a_killed_engine_ends_in_one_sentence_after_the_finished_samples(sampler, requests):
    engines = [child for child in multiprocessing.active_children() if child.name.startswith("EngineCore")]
    assert len(engines) == 2
    for n in range(40):
        sampler.submit(n, SampleRequest(requests[0].prompt_ids, n, 1 if n < 4 else 240))
    finished = []
    while len(finished) < 4:
        finished += sampler.poll()
    assert engines[1].pid is not None
    os.kill(engines[1].pid, signal.SIGKILL)
    with pytest.raises(UserError, match="vLLM engine died .* the same command continues"):
        while True:
            finished += sampler.poll()
    assert sampler.pending == 40 - len(finished) > 0
    with pytest.raises(UserError, match="vLLM engine died"):
        sampler.poll()
    sampler.close()
    for engine in engines:
        engine.join(timeout=30)
        assert not engine.is_alive()


@vllm
@pytest.mark.parametrize(
    ("family", "tensor_parallel", "backend", "executor"),
    [("qwen3", 1, "mp", "uni"), ("qwen3", 2, "mp", None), ("qwen3_moe", 1, "mp", None), ("qwen3", 1, "ray", None)],
)
def test_engines_of_one_gpu_compute_in_their_own_process(
    family, tensor_parallel, backend, executor, tmp_path, monkeypatch
):
    """Not to be seen on CPUs, where vLLM starts a process for each engine all the same."""
    started = []
    monkeypatch.setattr(VllmParallelSampler, "_start", lambda *arguments: started.append(arguments[2]))
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setattr("srt.sampling.vllm_parallel.visible_gpus", lambda: 4)
    tiny(family)[1].config.save_pretrained(tmp_path)
    options = {"tensor_parallel_size": tensor_parallel, "engines": 2, "data_parallel_backend": backend}
    VllmParallelSampler(str(tmp_path), SAMPLED, max_model_len=256, max_batch=8, **options)
    assert started[0].get("distributed_executor_backend") == executor


# How many engines ---------------------------------------------------------------------------------------


@pytest.fixture
def gpus(monkeypatch):
    return lambda count: monkeypatch.setattr("srt.sampling.vllm_parallel.visible_gpus", lambda: count)


@pytest.mark.parametrize(
    ("visible", "requested", "tensor_parallel", "engines"),
    [(8, None, 1, 8), (8, None, 3, 2), (8, 2, 2, 2), (1, None, 1, 1), (0, None, 1, None), (0, 2, 1, 2)],
)
def test_all_visible_gpus_are_used(gpus, visible, requested, tensor_parallel, engines):
    gpus(visible)
    assert engine_count(requested, tensor_parallel, "mp") == engines


@pytest.mark.parametrize(("requested", "tensor_parallel"), [(None, 4), (3, 1), (2, 2)])
def test_too_few_gpus_are_an_error_that_names_the_knobs(gpus, requested, tensor_parallel):
    gpus(2)
    with pytest.raises(UserError, match="DATA_PARALLEL_SIZE=.* TENSOR_PARALLEL_SIZE=.* only 2 are visible"):
        engine_count(requested, tensor_parallel, "mp")


def test_ray_needs_the_number_of_engines(gpus):
    gpus(2)
    assert engine_count(16, 1, "ray") == 16
    with pytest.raises(UserError, match="DATA_PARALLEL_BACKEND=ray needs DATA_PARALLEL_SIZE"):
        engine_count(None, 1, "ray")
