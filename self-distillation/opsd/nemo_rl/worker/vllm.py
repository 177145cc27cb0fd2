"""NeMo-RL's vLLM worker, asked for samples as the local engine's vLLM is, and with the same settings.

NeMo-RL's own `generate` returns when the longest response of a batch has ended, and its engines have one seed
each. Here each request has its seed (a sample's identity, srt/contract/seeds.py), token limit and temperature,
samples leave one by one, and what is under way can be stopped.
"""

import gc
from typing import Any

import ray
import torch
from nemo_rl.models.generation.vllm.vllm_worker import VllmGenerationWorkerImpl

from opsd.nemo_rl.worker.sampling import SamplingWorker
from srt.common.models import load_model_config
from srt.common.remote_code import enforce_remote_code, remote_code_allowed
from srt.sampling.base import SamplingConfig
from srt.sampling.vllm_common import sleep_level
from srt.sampling.vllm_requests import VllmRequests

enforce_remote_code()

WORKER_EXTENSION = "opsd.nemo_rl.worker.vllm_extension.WorkerExtension"


class SeededVllmWorkerImpl(SamplingWorker, VllmGenerationWorkerImpl):
    """`sampler`: of the workers that own an engine."""

    def _create_engine(self, llm_kwargs: dict[str, Any]) -> None:
        ours = {
            # Of the model itself: NeMo-RL requests log-probs after temperature and top-p, which would then make up
            # the gap between sampler and trainer.
            "logprobs_mode": "raw_logprobs",
            "trust_remote_code": remote_code_allowed(),  # NeMo-RL would run code that comes with the model
            "disable_log_stats": True,  # they time every token of every request
            "worker_extension_cls": WORKER_EXTENSION,
        }
        super()._create_engine({**llm_kwargs, **ours})
        config = SamplingConfig(self.cfg["temperature"], self.cfg["top_p"], tuple(self.cfg["stop_token_ids"]))
        self.sampler = VllmRequests(self.llm.llm_engine, config, self.model_name)

    def sleep(self) -> None:
        """As NeMo-RL's, which keeps a copy of the weights in main memory until the next weight sync overwrites it.

        Every `sampling()` of the driver begins with a weight sync, which covers all parameters: the engine starts
        with dummy ones.
        """
        self.llm.llm_engine.reset_prefix_cache()
        self.llm.sleep(level=sleep_level(load_model_config(self.model_name)))
        gc.collect()
        torch.cuda.empty_cache()


@ray.remote
class SeededVllmWorker(SeededVllmWorkerImpl):
    pass
