"""NeMo-RL's vLLM worker with a seed and a token limit for each request, as in the local engine.

A sample's seed comes from what it is (srt/contract/seeds.py), so it does not depend on which engine got it.
NeMo-RL itself seeds an engine, by its place.
"""

from typing import Any

import ray
from nemo_rl.distributed.batched_data_dict import BatchedDataDict
from nemo_rl.models.generation.vllm.vllm_worker import VllmGenerationWorkerImpl

from srt.sampling.base import SampleRequest, SamplingConfig
from srt.sampling.vllm_common import sampling_params


class SeededVllmWorkerImpl(VllmGenerationWorkerImpl):
    def _create_engine(self, llm_kwargs: dict[str, Any]) -> None:
        # Log-probs of the model itself: NeMo-RL asks for them after temperature and top-p, and the gap between
        # sampler and trainer would be those.
        super()._create_engine({**llm_kwargs, "logprobs_mode": "raw_logprobs"})

    def generate(self, data: BatchedDataDict, greedy: bool = False) -> BatchedDataDict:
        """`data` also holds `seeds` and `max_tokens`, a number for each prompt."""
        if len(data["input_ids"]):
            self._requests = list(zip(data["seeds"].tolist(), data["max_tokens"].tolist(), strict=True))
        return super().generate(data, greedy)

    def _build_sampling_params(self, **_: Any) -> list[Any]:
        settings = SamplingConfig(self.cfg["temperature"], self.cfg["top_p"], tuple(self.cfg["stop_token_ids"]))
        return [
            sampling_params(settings, SampleRequest([], seed, max_tokens), with_logprobs=True)
            for seed, max_tokens in self._requests
        ]


@ray.remote
class SeededVllmWorker(SeededVllmWorkerImpl):
    pass
