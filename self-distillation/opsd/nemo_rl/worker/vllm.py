"""NeMo-RL's vLLM worker with a seed, a token limit and a temperature for each request, as in the local engine.

A sample's seed comes from its identity (srt/contract/seeds.py), so it does not depend on which engine draws it.
NeMo-RL seeds engines, by their rank.
"""

import gc
from typing import Any

import ray
import torch
from nemo_rl.distributed.batched_data_dict import BatchedDataDict
from nemo_rl.models.generation.vllm.vllm_worker import VllmGenerationWorkerImpl

from srt.common.models import load_model_config
from srt.common.remote_code import enforce_remote_code, remote_code_allowed
from srt.sampling.base import SampleRequest, SamplingConfig
from srt.sampling.vllm_common import sampling_params, sleep_level

enforce_remote_code()


class SeededVllmWorkerImpl(VllmGenerationWorkerImpl):
    """`generate` keeps what each request asks for, apart from its prompt, for `_build_sampling_params`, which it
    calls."""

    def __init__(self, *args: Any, **kwargs: Any):
        self._requests: list[SampleRequest] = []
        super().__init__(*args, **kwargs)

    def _create_engine(self, llm_kwargs: dict[str, Any]) -> None:
        # Log-probs of the model itself: NeMo-RL requests them after temperature and top-p, which would then make
        # up the gap between sampler and trainer. And it would run code that comes with the model.
        ours = {"logprobs_mode": "raw_logprobs", "trust_remote_code": remote_code_allowed()}
        super()._create_engine({**llm_kwargs, **ours})

    def sleep(self) -> None:
        """As NeMo-RL's, which keeps a copy of the weights in main memory until the next weight sync overwrites it.

        Every `sampling()` of the driver begins with a weight sync, which covers all parameters: the engine starts
        with dummy ones.
        """
        self.llm.llm_engine.reset_prefix_cache()
        self.llm.sleep(level=sleep_level(load_model_config(self.model_name)))
        gc.collect()
        torch.cuda.empty_cache()

    def generate(self, data: BatchedDataDict, greedy: bool = False) -> BatchedDataDict:
        """`data` also holds, for each prompt, `seeds`, `max_tokens` and `sampling` (None: the worker's own)."""
        if len(data["input_ids"]):
            each = zip(data["seeds"].tolist(), data["max_tokens"].tolist(), data["sampling"], strict=True)
            self._requests = [
                SampleRequest([], seed, max_tokens, sampling=sampling) for seed, max_tokens, sampling in each
            ]
        return super().generate(data, greedy)

    def _build_sampling_params(self, **_: Any) -> list[Any]:
        settings = SamplingConfig(self.cfg["temperature"], self.cfg["top_p"], tuple(self.cfg["stop_token_ids"]))
        return [sampling_params(settings, request, with_logprobs=True) for request in self._requests]


@ray.remote
class SeededVllmWorker(SeededVllmWorkerImpl):
    pass
