"""NeMo-RL's own vLLM worker with the token limit of each prompt, for step_stock.py."""

from typing import Any

import ray
from nemo_rl.distributed.batched_data_dict import BatchedDataDict
from nemo_rl.models.generation.vllm.vllm_worker import VllmGenerationWorkerImpl
from step_common import Options, length_of


class StockSamplerImpl(VllmGenerationWorkerImpl):
    """`generate` hands what `_build_sampling_params` returns to vLLM, which takes one or a list of them."""

    def generate(self, data: BatchedDataDict, greedy: bool = False) -> BatchedDataDict:
        options = Options(**self.cfg["benchmark"])
        lengths = data["input_lengths"].tolist()
        chats = [row[:length] for row, length in zip(data["input_ids"].tolist(), lengths, strict=True)]
        self._limits = [length_of(chat, options) for chat in chats]
        return super().generate(data, greedy)

    def _build_sampling_params(self, **settings: Any) -> list[Any]:
        params = [super(StockSamplerImpl, self)._build_sampling_params(**settings) for _ in self._limits]
        for each, limit in zip(params, self._limits, strict=True):
            each.max_tokens, each.ignore_eos, each.stop_token_ids = limit, True, []
        return params


@ray.remote
class StockSampler(StockSamplerImpl):
    pass
