"""NeMo-RL's vLLM engines and its environment as the sampler and the grader of opsd.rollouts.RolloutWorker."""

import statistics
from collections.abc import Callable, Hashable
from typing import Any

import ray
from nemo_rl.models.generation.vllm import VllmGeneration, vllm_generation

from opsd.nemo_rl.driver.lost_workers import end_workers, user_errors_of_workers
from opsd.nemo_rl.driver.runtime import SAMPLER_WORKER
from opsd.nemo_rl.worker.sampling import Requests, Samples
from srt.contract import metrics as names
from srt.contract.records import Problem
from srt.sampling.base import Sample, SampleRequest
from srt.verifiers.types import Outcome, Verdict, VerifierError

# Between two calls an engine waits for the driver, a millisecond or two. A step that takes the first N responses
# (OVER_ISSUE) waits this long for the call under way.
CALL_SECONDS = 0.2


def open_generation(cluster: Any, config: dict[str, Any]) -> VllmGeneration:
    """NeMo-RL's vLLM engines, with our worker instead of the one that NeMo-RL selects."""
    resolve = vllm_generation.resolve_generation_worker_cls
    vllm_generation.resolve_generation_worker_cls = lambda default, config: SAMPLER_WORKER
    try:
        return VllmGeneration(cluster=cluster, config=config)
    finally:
        vllm_generation.resolve_generation_worker_cls = resolve


class NemoSampler:
    """See srt.sampling.base.InterruptibleSampler. Requests go to the engine that has the fewest.

    An engine works while it is called; a call lasts CALL_SECONDS at most, and `poll` makes the next one.
    """

    def __init__(self, generation: VllmGeneration):
        self.generation = generation
        group = generation.worker_group
        self._workers = [group.get_dp_leader_worker_idx(engine) for engine in range(group.dp_size)]
        self._new: list[Requests] = [[] for _ in self._workers]  # of each engine, not sent yet
        self._keys: list[set[Hashable]] = [set() for _ in self._workers]  # of each engine, sent or not
        self._calls: dict[Any, int] = {}  # what Ray will return -> its engine

    def submit(self, key: Hashable, request: SampleRequest) -> None:
        engine = min(range(len(self._keys)), key=lambda engine: len(self._keys[engine]))
        self._new[engine].append((key, request))
        self._keys[engine].add(key)

    @property
    def pending(self) -> int:
        return sum(map(len, self._keys))

    def poll(self, enough: int | None = None) -> Samples:
        """What has finished in the engines whose calls have ended; waits for one of them."""
        for engine, keys in enumerate(self._keys):
            if keys and engine not in self._calls.values():
                new, self._new[engine] = self._new[engine], []
                self._calls[self._call(engine, "sample", new=new, seconds=CALL_SECONDS, enough=enough)] = engine
        if not self._calls:
            return []
        ray.wait(list(self._calls), num_returns=1)
        ended, _ = ray.wait(list(self._calls), num_returns=len(self._calls), timeout=0)
        return [sample for call in ended for sample in self._collect(call)]

    def interrupt(self) -> Samples:
        """Also returns, with their own `finish_reason`, samples that have finished since the last `poll`."""
        samples = [sample for call in list(self._calls) for sample in self._collect(call)]
        for requests in self._new:
            samples += [(key, Sample([], "interrupted", [])) for key, _ in requests]
            requests.clear()
        engines = [engine for engine, keys in enumerate(self._keys) if keys]
        for stopped in _get([self._call(engine, "interrupt_samples") for engine in engines]):
            samples += stopped
        for keys in self._keys:
            keys.clear()
        return samples

    def metrics(self) -> dict[str, float]:
        """The mean, the largest or the sum over the engines, as it is over an engine's steps."""
        found = self._call_all("sampling_metrics")
        combine: dict[str, Callable[[list[float]], float]] = {
            names.REQUESTS_RUNNING: statistics.mean,
            names.REQUESTS_WAITING: max,
            names.KV_CACHE_USE: max,
            names.WAITED_FOR_CACHE: statistics.mean,
            names.PREEMPTIONS: sum,
        }
        of_engines = {name: [metrics[name] for metrics in found if name in metrics] for name in combine}
        return {name: combine[name](values) for name, values in of_engines.items() if values}

    def reset_metrics(self) -> None:
        self._call_all("reset_sampling_metrics")

    def close(self) -> None:
        end_workers(self.generation)

    def _call_all(self, method: str) -> list[Any]:
        return _get([self._call(engine, method) for engine in range(len(self._workers))])

    def _call(self, engine: int, method: str, **arguments: Any) -> Any:
        group = self.generation.worker_group
        return group.run_single_worker_single_data(method, worker_idx=self._workers[engine], **arguments)

    def _collect(self, call: Any) -> Samples:
        engine = self._calls.pop(call)
        samples: Samples = _get(call)
        self._keys[engine] -= {key for key, _ in samples}
        return samples


def _get(calls: Any) -> Any:
    """What calls return."""
    with user_errors_of_workers():
        return ray.get(calls)


class NemoGrader:
    """The environment actor as an opsd.rollouts.BatchGrader."""

    def __init__(self, environment: Any):
        self.environment = environment

    def grade_all(self, items: list[tuple[str, Problem, str]]) -> list[Outcome]:
        logs = [
            [{"role": "user", "content": problem.x}, {"role": "assistant", "content": response}]
            for response, problem, _ in items
        ]
        metadata = [{"problem": problem, "finish_reason": reason} for _, problem, reason in items]
        graded = ray.get(self.environment.step.remote(logs, metadata))
        return [
            VerifierError(*entry["error"])
            if entry["error"]
            else Verdict(bool(reward), entry["extracted"], entry["reason"])
            for reward, entry in zip(graded.rewards.tolist(), graded.metadata, strict=True)
        ]
