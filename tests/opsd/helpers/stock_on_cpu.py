"""NeMo-RL's own policy worker on CPUs, and what stands in the place of vLLM, for the benchmark's arm "stock"."""

import sys
from pathlib import Path
from typing import Any

import ray
import torch
from torch.overrides import TorchFunctionMode

sys.path.append(str(Path(__file__).parents[3] / "self-distillation" / "benchmarks"))

import nemo_on_cpu  # noqa: E402, F401 - gloo for NCCL, before NeMo-RL's worker is made
from measured_worker import MeasuredWorkerImpl  # noqa: E402
from nemo_rl.distributed.batched_data_dict import BatchedDataDict  # noqa: E402
from step_common import Options, length_of  # noqa: E402


class CudaIsTheCpu(TorchFunctionMode):
    """Where torch is asked for "cuda", it takes the CPU."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        replaced = {
            name: "cpu" if name == "device" and "cuda" in str(value) else value
            for name, value in (kwargs or {}).items()
        }
        return function(*("cpu" if isinstance(arg, str) and arg == "cuda" else arg for arg in args), **replaced)


torch.cuda.get_device_name = lambda *_: "CPU"
torch.cuda.reset_peak_memory_stats = lambda *_: None
torch.cuda.max_memory_allocated = lambda *_: 2**30


class CpuStockWorkerImpl(MeasuredWorkerImpl):
    def __init__(self, *args: Any, **kwargs: Any):
        CudaIsTheCpu().__enter__()
        super().__init__(*args, **kwargs)

    def move_to_device(self, model: Any, device: Any) -> Any:
        return model

    def move_buffer_to_device(self, model: Any, device: Any) -> Any:
        return model

    def move_optimizer_to_device(self, device: Any) -> None:
        pass


@ray.remote
class CpuStockWorker(CpuStockWorkerImpl):
    pass


class Generation:
    """In the place of NeMo-RL's vLLM engines: random tokens of the benchmark's lengths."""

    def __init__(self, cluster: Any, config: dict[str, Any]):
        self.options, self.pad = Options(**config["benchmark"]), config["_pad_token_id"]
        self.width = config["vllm_cfg"]["max_model_len"]
        assert config["vllm_cfg"]["gpu_memory_utilization"] == self.options.stock_memory

    def generate(self, data: BatchedDataDict, greedy: bool) -> BatchedDataDict:
        starts = data["input_lengths"].tolist()
        chats = [row[:start] for row, start in zip(data["input_ids"].tolist(), starts, strict=True)]
        lengths = [length_of(chat, self.options) for chat in chats]
        ids = torch.full((len(chats), self.width), self.pad)
        for row, chat, length in zip(ids, chats, lengths, strict=True):
            row[: len(chat) + length] = torch.tensor(chat + [7] * length)
        return BatchedDataDict(
            {
                "output_ids": ids,
                "logprobs": torch.zeros(ids.shape),
                "generation_lengths": torch.tensor(lengths),
                "unpadded_sequence_lengths": torch.tensor(starts) + torch.tensor(lengths),
                "truncated": torch.ones(len(chats), dtype=torch.bool),
            }
        )

    def prepare_refit_info(self, info: Any) -> None:
        pass

    def prepare_for_generation(self) -> None:
        pass

    def finish_generation(self) -> None:
        pass

    def shutdown(self) -> None:
        pass
