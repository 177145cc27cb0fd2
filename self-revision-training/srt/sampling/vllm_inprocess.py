"""Sampling with a vLLM engine in this process: Phase 2, and machines without a GPU.

It starts in seconds, its weights can be updated, and it can free the GPU memory in between. It only works while
`poll` runs; the sampler in vllm_parallel.py keeps GPUs busy.
"""

import os
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from srt.common.errors import UserError
from srt.common.progress import heartbeat
from srt.sampling.base import SamplingConfig
from srt.sampling.vllm_common import (
    did_not_start,
    engine_arguments,
    prepare_vllm,
    sleep_level,
)
from srt.sampling.vllm_group import GROUP
from srt.sampling.vllm_requests import VllmRequests
from srt.sampling.vllm_start import StartMessages

if TYPE_CHECKING:  # torch is heavy, and vLLM's environment variables must be set before it is imported
    from torch import Tensor


class VllmSampler(VllmRequests):
    """`max_model_len`: prompt and response together, in tokens; None: the context length of the model.

    `max_batch`: sequences that run at the same time. `memory_utilization`: vLLM's share of the GPU memory.
    `can_sleep`: the engine shares the GPU with a model in training and can free its memory (see `sleep`).
    Raises UserError when the engine does not start.
    """

    def __init__(
        self,
        model_path: str,
        config: SamplingConfig,
        *,
        max_model_len: int | None,
        max_batch: int,
        dtype: str = "auto",
        memory_utilization: float = 0.9,
        tensor_parallel_size: int = 1,
        with_logprobs: bool = True,
        can_sleep: bool = False,
        seed: int = 0,
    ):
        # The engine in this process: no second process to leak, and its weights can be updated.
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        on_gpu = prepare_vllm()
        from vllm import LLM  # before `listening`: the import sets up vLLM's logger

        from srt.common.models import load_model_config
        from srt.sampling.vllm_classes import model_classes, separate_classes

        arguments = engine_arguments(
            model_path,
            on_gpu=on_gpu,
            max_model_len=max_model_len,
            max_batch=max_batch,
            dtype=dtype,
            memory_utilization=memory_utilization,
            tensor_parallel_size=tensor_parallel_size,
            seed=seed,
        )
        model_config = load_model_config(model_path)
        classes = model_classes(model_config)
        messages = StartMessages()
        try:
            progress = heartbeat("vLLM is starting", lambda: messages.text)
            with GROUP.starting(self), messages.listening(), progress:
                engine = LLM(**arguments, enable_sleep_mode=can_sleep and on_gpu).llm_engine
        except Exception as error:  # whatever the code of a model raises
            raise did_not_start(model_path, error) from error
        print(f"vLLM: started in {messages.describe()}", flush=True)
        super().__init__(engine, config, model_path, with_logprobs)
        self.engine.apply_model(partial(separate_classes, before=classes))
        # The parameters that the last update of weights reached, where vLLM tells.
        self._loaded: set[str] | None = None
        self._records_loading = False
        self._on_gpu = on_gpu
        self._can_sleep = can_sleep and on_gpu
        self._asleep = False
        self._sleep_level = sleep_level(model_config)

    def update_weights(self, weights: "Iterable[tuple[str, Tensor]]") -> None:
        """Sample from these weights from now on (names and layout of the checkpoint, any dtype); wakes a sleeping
        engine.

        Raises UserError when one of the engine's parameters got no weight: it would keep an old one.
        """
        if self._can_sleep:
            import torch

            torch.cuda.empty_cache()  # vLLM wakes up in the memory that torch's pool would keep from training
        if self._asleep:
            self.engine.wake_up()
            self._asleep = False
        is_first = not self._records_loading
        if is_first:
            self.engine.apply_model(self._record_loading)
            self._records_loading = True
            self.engine.apply_model(_forget_weights)
        parameters = self.engine.apply_model(_parameter_names)[0]
        self.engine.collective_rpc(_reload_weights, args=(weights,))
        missing = {min(names) for names in parameters if self._loaded is not None and not names & self._loaded}
        if is_first:
            missing.update(*self.engine.apply_model(_forgotten_weights))
        if missing:
            some = ", ".join(sorted(missing)[:3])
            raise UserError(
                f"vLLM took no weight for {len(missing)} parameters of {self._model_path} ({some}, ...): "
                "it would sample with old ones; SAMPLER=transformers samples without vLLM"
            )
        if not self._on_gpu:
            self.engine.apply_model(_repack_for_cpu)
        self.engine.reset_prefix_cache()  # its content came from the old weights
        self.reset_metrics()

    def _record_loading(self, model: Any) -> None:
        """Note which parameters vLLM's `load_weights` loads; vLLM itself only logs a warning about the others."""
        load = model.load_weights

        def load_weights(*args: Any, **kwargs: Any) -> set[str] | None:
            self._loaded = load(*args, **kwargs)
            return self._loaded

        model.load_weights = load_weights

    def sleep(self) -> None:
        """Free the GPU memory of weights and cache until `update_weights`; does nothing without a GPU."""
        if self._can_sleep:
            self.engine.sleep(level=self._sleep_level)
            self._asleep = True

    def close(self) -> None:
        """Free the engine's memory, and with the last engine of this process leave torch's process group."""
        self._keys.clear()
        shutdown = getattr(getattr(self.engine, "engine_core", None), "shutdown", None)
        if shutdown is not None:
            shutdown()
        GROUP.leave(self)


def _reload_weights(worker: Any, weights: "Iterable[tuple[str, Tensor]]") -> None:
    """`worker`: of vLLM. Its second model runner has no such method in vLLM 0.20, and what that of the first one
    needs."""
    if hasattr(worker.model_runner, "reload_weights"):
        worker.reload_weights(weights_iterator=weights)
    else:
        from vllm.v1.worker.gpu_model_runner import GPUModelRunner

        GPUModelRunner.reload_weights(worker.model_runner, weights_iterator=weights)


def _parameter_names(model: Any) -> list[set[str]]:
    """The names of each parameter that a checkpoint has: a tied head, or experts that two modules hold, have
    several."""
    from vllm.model_executor.layers.attention_layer_base import AttentionLayerBase

    names: dict[int, set[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        module = model.get_submodule(name.rpartition(".")[0])
        derived = isinstance(module, AttentionLayerBase) and hasattr(module, "process_weights_after_loading")
        if not derived:  # from other parameters, by latent attention
            names.setdefault(id(parameter), set()).add(name)
    return list(names.values())


def _forget_weights(model: Any) -> None:
    """Some families say that they have loaded what never reaches a parameter: it then stays NaN."""
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.data.fill_(float("nan"))


def _forgotten_weights(model: Any) -> list[str]:
    return [
        name
        for name, parameter in model.named_parameters()
        if parameter.is_floating_point() and parameter.sum().isnan()  # without a mask as large as the parameter
    ]


def _repack_for_cpu(model: Any) -> None:
    """The CPU build computes with packed weights. Reloading leaves those of a tied LM head as they were, and those
    of experts unpacked."""
    from vllm.model_executor.layers.vocab_parallel_embedding import VocabParallelEmbedding

    for module in model.modules():
        method: Any = getattr(module, "quant_method", None)
        if isinstance(module, VocabParallelEmbedding) and hasattr(module, "cpu_linear"):
            method.process_weights_after_loading(module)
        kernel = getattr(method, "moe_kernel", None)
        if kernel is not None and hasattr(module, "w13_weight"):
            kernel.fused_experts.process_weights_after_loading(module)
