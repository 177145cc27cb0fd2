"""NeMo-RL's engines as one sampler: what goes to which engine, what comes back, and what is stopped.

The engines are real samplers (transformers) in this process; that of Ray is tests/opsd/nemo_rl/test_engine.py.
"""

from types import SimpleNamespace

import pytest

from opsd.nemo_rl.worker.sampling import SamplingWorker
from opsd.rollouts import RolloutWorker
from opsd.select_engine import nemo_rl_source
from srt.common.errors import UserError
from srt.common.files import JsonlLog
from srt.common.models import load_model
from srt.sampling.base import SampleRequest, SamplingConfig, sample_all
from srt.sampling.transformers import TransformersSampler
from tests.opsd.helpers.needs_nemo_rl import missing, needs_nemo_rl
from tests.opsd.helpers.problems import problem

pytestmark = needs_nemo_rl("the sampler over NeMo-RL's engines was NOT tested")


class Engine(SamplingWorker):
    def __init__(self, model, layout):
        self.sampler = MeasuredSampler(model, 0, SamplingConfig(1.0, 1.0, tuple(layout.eot_ids)), 8)
        self.asked = []

    def sample(self, new, seconds, enough=None):
        self.asked += new
        return super().sample(new, seconds, enough)


class MeasuredSampler(TransformersSampler):
    measured = {}

    def metrics(self):
        return self.measured

    def reset_metrics(self):
        self.measured = {}


class Returned:
    """What Ray will return: computed at once, raised when it is asked for."""

    def __init__(self, work):
        self.error = None
        try:
            self.value = work()
        except Exception as error:
            self.error = error

    def get(self):
        if self.error:
            raise self.error
        return self.value


@pytest.fixture
def engines(tiny_checkpoint, layout):
    model = load_model(str(tiny_checkpoint), "float32").eval()
    return [Engine(model, layout) for _ in range(2)]


@pytest.fixture
def sampler(engines, monkeypatch):
    """NemoSampler over both engines."""
    if nemo_rl_source() and not missing:
        from opsd.nemo_rl.driver import runtime

        runtime.prepare()
    from opsd.nemo_rl.driver import generation

    def get(calls):
        return [call.get() for call in calls] if isinstance(calls, list) else calls.get()

    monkeypatch.setattr(generation.ray, "get", get)
    monkeypatch.setattr(generation.ray, "wait", lambda calls, num_returns, timeout=None: (calls, []))
    group = SimpleNamespace(
        dp_size=2,
        get_dp_leader_worker_idx=lambda shard: 2 * shard,  # of a group of two tensor-parallel workers
        run_single_worker_single_data=lambda method, worker_idx, **arguments: Returned(
            lambda: getattr(engines[worker_idx // 2], method)(**arguments)
        ),
    )
    return generation.NemoSampler(SimpleNamespace(worker_group=group))


def requests_of(layout, count):
    return [SampleRequest(layout.chat(f"x = {n}"), seed=n, max_tokens=3 + n) for n in range(count)]


def test_requests_are_spread_over_the_engines_and_samples_are_the_local_engines(
    sampler, engines, layout, grader, tmp_path
):
    problems = [problem(x=f"x = {n}", id=str(n)) for n in range(5)]
    worker = RolloutWorker(layout, grader, 40, 200, 5, JsonlLog(tmp_path / "set_aside.jsonl"))
    found = worker.sample(sampler, problems, 3)
    assert [[key for key, _ in engine.asked] for engine in engines] == [[0, 2, 4], [1, 3]]
    expected = worker.sample(engines[0].sampler, problems, 3)
    assert [(r.y, r.finish_reason, r.r, r.chat) for r in found] == [
        (r.y, r.finish_reason, r.r, r.chat) for r in expected
    ]
    assert found[0].logprobs == pytest.approx(expected[0].logprobs, abs=1e-4)
    assert sampler.pending == 0 and sampler.poll() == []


def test_what_is_stopped_is_what_was_drawn_so_far(sampler, engines, layout, monkeypatch):
    monkeypatch.setattr(generation_module(), "CALL_SECONDS", 0.0)
    requests = requests_of(layout, 4)
    for key, request in enumerate(requests):
        sampler.submit(key, request)
    first = dict(sampler.poll(1))  # of each engine, its shortest
    assert sorted(first) == [0, 1]
    sampler.submit("late", requests[0])
    stopped = dict(sampler.interrupt())
    assert sorted(stopped, key=str) == [2, 3, "late"]
    assert stopped["late"].token_ids == [] and stopped["late"].finish_reason == "interrupted"
    whole = sample_all(engines[0].sampler, requests)
    for key in (2, 3):
        assert 0 < len(stopped[key].token_ids) < len(whole[key].token_ids)
        assert stopped[key].finish_reason == "interrupted"
        assert whole[key].token_ids[: len(stopped[key].token_ids)] == stopped[key].token_ids
    assert sampler.pending == 0 and sampler.interrupt() == []


def test_what_finished_since_the_last_poll_is_returned_as_finished(sampler, layout):
    sampler.submit("a", requests_of(layout, 1)[0])
    sampler._calls[sampler._call(0, "sample", new=sampler._new[0], seconds=60.0)] = 0  # sent, not asked for
    sampler._new[0] = []
    [(key, sample)] = sampler.interrupt()
    assert key == "a" and sample.finish_reason in ("stop", "length")


def test_metrics_are_those_of_all_engines_since_they_were_reset(sampler, engines):
    for running, engine in zip((2.0, 4.0), engines, strict=True):
        engine.sampler.measured = {
            "requests_running": running,
            "requests_waiting": 10 * running,
            "kv_cache_use": running / 10,
            "waited_for_cache": running / 100,
            "preemptions": 1,
        }
    expected = {
        "requests_running": 3.0,
        "requests_waiting": 40.0,
        "kv_cache_use": 0.4,
        "waited_for_cache": pytest.approx(0.03),
        "preemptions": 2,
    }
    assert sampler.metrics() == expected
    sampler.reset_metrics()
    assert sampler.metrics() == {}


def test_a_workers_error_comes_without_rays_pages(sampler, engines, layout):
    class TaskError(UserError):  # as Ray makes them
        cause = UserError("vLLM started on m and cannot compute it")

    def fail(*arguments, **more):
        raise TaskError("pages of a traceback")

    engines[0].sample = fail
    sampler.submit("a", requests_of(layout, 1)[0])
    with pytest.raises(UserError, match="^vLLM started on m and cannot compute it$"):
        sampler.poll()


def generation_module():
    from opsd.nemo_rl.driver import generation

    return generation


def test_its_engine_has_the_settings_of_the_local_one(sampler, monkeypatch):
    from opsd.nemo_rl.worker.vllm import SeededVllmWorkerImpl, VllmGenerationWorkerImpl

    def create(worker, arguments):
        worker.llm = SimpleNamespace(llm_engine=SimpleNamespace(engine_core=None, arguments=arguments))

    monkeypatch.setattr(VllmGenerationWorkerImpl, "_create_engine", create)
    worker = object.__new__(SeededVllmWorkerImpl)
    worker.cfg = {"temperature": 0.7, "top_p": 0.9, "stop_token_ids": [5, 6]}
    worker.model_name = "m"
    worker._create_engine({"seed": 3, "logprobs_mode": "processed_logprobs", "disable_log_stats": False})
    assert worker.sampler.engine.arguments == {
        "seed": 3,
        "logprobs_mode": "raw_logprobs",
        "trust_remote_code": False,
        "disable_log_stats": True,
        "worker_extension_cls": "opsd.nemo_rl.worker.vllm_extension.WorkerExtension",
    }
    assert worker.sampler.config == SamplingConfig(0.7, 0.9, (5, 6)) and worker.sampler.with_logprobs
