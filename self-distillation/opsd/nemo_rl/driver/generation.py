"""NeMo-RL's vLLM engines and its environment as the sampler and the grader of opsd.rollouts.RolloutWorker."""

from collections.abc import Hashable, Iterable
from typing import Any

import ray
import torch
from nemo_rl.distributed.batched_data_dict import BatchedDataDict
from nemo_rl.models.generation.vllm import VllmGeneration, vllm_generation

from opsd.nemo_rl.driver.lost_workers import end_workers
from opsd.nemo_rl.driver.runtime import SAMPLER_WORKER
from srt.contract.records import Problem
from srt.sampling.base import Sample, SampleRequest
from srt.verifiers.types import Outcome, Verdict, VerifierError


def open_generation(cluster: Any, config: dict[str, Any]) -> VllmGeneration:
    """NeMo-RL's vLLM engines, with our worker instead of the one that NeMo-RL selects."""
    resolve = vllm_generation.resolve_generation_worker_cls
    vllm_generation.resolve_generation_worker_cls = lambda default, config: SAMPLER_WORKER
    try:
        return VllmGeneration(cluster=cluster, config=config)
    finally:
        vllm_generation.resolve_generation_worker_cls = resolve


class NemoSampler:
    """See srt.sampling.base.InterruptibleSampler; requests submitted since the last poll are sampled together, and
    all to their end."""

    def __init__(self, generation: VllmGeneration, eot_ids: list[int], pad_id: int):
        self.generation = generation
        self.eot_ids = eot_ids
        self.pad_id = pad_id
        self._queue: list[tuple[Hashable, SampleRequest]] = []

    def submit(self, key: Hashable, request: SampleRequest) -> None:
        self._queue.append((key, request))

    @property
    def pending(self) -> int:
        return len(self._queue)

    def poll(self, enough: int | None = None) -> Iterable[tuple[Hashable, Sample]]:
        queue, self._queue = self._queue, []
        if not queue:
            return []
        keys, requests = zip(*queue, strict=True)
        output = self.generation.generate(as_generation_data(list(requests), self.pad_id), greedy=False)
        return list(zip(keys, as_samples(list(requests), output, self.eot_ids), strict=True))

    def interrupt(self) -> list[tuple[Hashable, Sample]]:
        """Nothing is under way between two polls."""
        queue, self._queue = self._queue, []
        return [(key, Sample([], "interrupted", [])) for key, _ in queue]

    def metrics(self) -> dict[str, float]:
        """Nothing is measured."""
        return {}

    def close(self) -> None:
        end_workers(self.generation)


def as_generation_data(requests: list[SampleRequest], pad_id: int) -> BatchedDataDict:
    """Right-padded prompts with their lengths, seeds, token limits and, where they have their own, sampling."""
    width = max(len(request.prompt_ids) for request in requests)
    ids = [request.prompt_ids + [pad_id] * (width - len(request.prompt_ids)) for request in requests]
    return BatchedDataDict(
        {
            "input_ids": torch.tensor(ids),
            "input_lengths": torch.tensor([len(request.prompt_ids) for request in requests]),
            "seeds": torch.tensor([request.seed for request in requests]),
            "max_tokens": torch.tensor([request.max_tokens for request in requests]),
            "sampling": [request.sampling for request in requests],
        }
    )


def as_samples(requests: list[SampleRequest], output: BatchedDataDict, eot_ids: list[int]) -> list[Sample]:
    """The responses alone, in the order of the requests."""
    samples = []
    for index, request in enumerate(requests):
        start = len(request.prompt_ids)
        end = start + int(output["generation_lengths"][index])
        ids = output["output_ids"][index, start:end].tolist()
        logprobs = output["logprobs"][index, start:end].tolist()
        samples.append(Sample(ids, "stop" if ids and ids[-1] in eot_ids else "length", logprobs))
    return samples


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
