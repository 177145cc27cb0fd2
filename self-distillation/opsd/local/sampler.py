"""The sampler of ENGINE=local. With ROLLOUT_AHEAD it has weights of its own and works while the student trains."""

import copy
import importlib
from collections.abc import Callable, Hashable, Iterable
from typing import Any

import torch
from torch import Tensor

from opsd.hidden_states import autocast_dtype
from opsd.local.student import Student
from opsd.run import Run
from srt.sampling.base import Sample, SampleRequest, WeightSyncedSampler
from srt.sampling.from_config import choose_backend
from srt.sampling.transformers import TransformersSampler
from srt.sampling.vllm_common import prepare_vllm
from srt.sampling.vllm_inprocess import VllmSampler


def open_sampler(run: Run, student: Student, memory_utilization: float) -> WeightSyncedSampler:
    """Over the student's own weights (transformers), or over a copy that `update_weights` refreshes (vLLM, with
    `memory_utilization` of the GPU; transformers with ROLLOUT_AHEAD)."""
    config, model = run.config, student.model
    ahead = config.rollout_ahead

    def transformers() -> WeightSyncedSampler:
        sampler = CopySampler if ahead else TransformersSampler
        dtype = autocast_dtype(model.device)
        return sampler(model, run.pad_id, run.sampling, config.sampler_batch, autocast=dtype)

    def vllm() -> WeightSyncedSampler:
        return VllmSampler(
            config.student_model,
            run.sampling,
            max_model_len=run.max_model_len,
            max_batch=config.sampler_batch,
            memory_utilization=memory_utilization,
            can_sleep=not ahead,
        )

    start = transformers if choose_backend(config.sampler) == "transformers" else vllm
    if not ahead or model.device.type != "cuda":
        return start()
    if start is vllm:
        prepare_vllm()
        # From this import on, vLLM knows the stream that a thread has chosen; else it would make another.
        importlib.import_module("vllm.utils.torch_utils")
    return OwnStreamSampler(start, model.device)


class CopySampler(TransformersSampler):
    """Samples from a copy of a model in training, as it was at the last `update_weights`."""

    def __init__(self, model: Any, *arguments: Any, **options: Any):
        super().__init__(copy.deepcopy(model), *arguments, **options)
        self._trained = model

    @torch.no_grad()
    def update_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Copies all of the model's tensors, whatever `weights` are: an adapter remains one."""
        trained = self._trained.state_dict()
        for name, tensor in self.model.state_dict().items():
            tensor.copy_(trained[name])


class OwnStreamSampler:
    """A WeightSyncedSampler with a CUDA stream of its own, from whichever thread it is called: on the stream of
    the training, each step of the sampler would wait for all kernels that the training has launched.

    `start`: opens the sampler.
    """

    def __init__(self, start: Callable[[], WeightSyncedSampler], device: torch.device):
        # A sampler's kernels are small, and it waits for each step's.
        self._stream = torch.cuda.Stream(device, priority=-1)
        with torch.cuda.stream(self._stream):
            self.sampler = start()

    @property
    def pending(self) -> int:
        return self.sampler.pending

    def submit(self, key: Hashable, request: SampleRequest) -> None:
        with torch.cuda.stream(self._stream):
            self.sampler.submit(key, request)

    def poll(self, enough: int | None = None) -> Iterable[tuple[Hashable, Sample]]:
        with torch.cuda.stream(self._stream):
            return self.sampler.poll(enough)

    def interrupt(self) -> list[tuple[Hashable, Sample]]:
        with torch.cuda.stream(self._stream):
            return self.sampler.interrupt()

    def metrics(self) -> dict[str, float]:
        return self.sampler.metrics()

    def update_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """The caller's stream has computed the weights, and may change them afterwards."""
        callers = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(callers)
        with torch.cuda.stream(self._stream):
            self.sampler.update_weights(weights)
        callers.wait_stream(self._stream)

    def sleep(self) -> None:
        with torch.cuda.stream(self._stream):
            self.sampler.sleep()

    def close(self) -> None:
        self.sampler.close()
