"""Sampling with vLLM: the GPU build or the CPU build, through the same Python API.

Requests enter the engine at once and leave it one by one, so its scheduler always has work (continuous
batching); prefix caching lets a revision reuse the cache of its problem and first response.
"""

import os
from collections.abc import Hashable, Iterable
from typing import TYPE_CHECKING, Any

from srt.errors import UserError
from srt.sampling.base import Sample, SampleRequest, SamplingSettings

if TYPE_CHECKING:  # torch is heavy, and vLLM's environment variables must be set before it is imported
    from torch import Tensor


class VllmSampler:
    """`max_model_len`: prompt and response together; None takes the model's own limit.

    `max_batch` bounds the sequences that run at the same time; `memory_utilization` is vLLM's share of the
    GPU. `can_sleep`: the engine shares the GPU with a model in training and gives its memory back in between
    (see `sleep`). Raises UserError when the engine does not start.
    """

    def __init__(
        self,
        model_path: str,
        settings: SamplingSettings,
        *,
        max_model_len: int | None,
        max_batch: int,
        dtype: str = "auto",
        memory_utilization: float = 0.9,
        tensor_parallel_size: int = 1,
        can_sleep: bool = False,
        seed: int = 0,
    ):
        # The engine in our own process: no second process to leak, and weights can be handed over.
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        import torch

        on_gpu = torch.cuda.is_available()
        if not on_gpu:
            # Without these the CPU build reserves nearly all memory, and compiles for minutes.
            os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
            os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
        import vllm

        self._vllm = vllm
        self.settings = settings
        try:
            self.engine = vllm.LLM(
                model=model_path,
                dtype=("bfloat16" if on_gpu else "float32") if dtype == "auto" else dtype,
                max_model_len=max_model_len,
                max_num_seqs=max_batch,
                enable_prefix_caching=True,
                enforce_eager=not on_gpu,
                gpu_memory_utilization=memory_utilization,
                tensor_parallel_size=tensor_parallel_size,
                enable_sleep_mode=can_sleep and on_gpu,
                seed=seed,
                disable_log_stats=True,
            ).llm_engine
        except (ValueError, RuntimeError, OSError) as error:
            raise UserError(
                f"vLLM did not start on {model_path}: {str(error).splitlines()[0]} (a smaller MAX_TOKENS or "
                "SAMPLER_BATCH needs less memory; SAMPLER=transformers does without vLLM)"
            ) from error
        self._on_gpu = on_gpu
        self._can_sleep = can_sleep and on_gpu
        self._asleep = False
        self._keys: dict[str, Hashable] = {}
        self._submitted = 0

    @property
    def pending(self) -> int:
        return len(self._keys)

    def submit(self, key: Hashable, request: SampleRequest) -> None:
        name = str(self._submitted)  # vLLM wants text; a key may be any hashable
        self._submitted += 1
        self._keys[name] = key
        params = self._vllm.SamplingParams(
            temperature=self.settings.temperature,
            top_p=self.settings.top_p,
            seed=request.seed,
            max_tokens=request.max_tokens,
            stop_token_ids=list(self.settings.eot_ids),
            ignore_eos=True,  # nothing else ends a response, not even an eos of the tokenizer's own
            logprobs=0,  # only the sampled token's, from the raw logits (logprobs_mode's default)
            detokenize=False,
            skip_special_tokens=False,
        )
        self.engine.add_request(name, {"prompt_token_ids": request.prompt_ids}, params)

    def poll(self) -> list[tuple[Hashable, Sample]]:
        if not self._keys:
            return []
        return [
            (self._keys.pop(output.request_id), self._sample(output.outputs[0]))
            for output in self.engine.step()
            if output.finished
        ]

    def _sample(self, completion: Any) -> Sample:
        ids = list(completion.token_ids)
        logprobs = [step[token].logprob for token, step in zip(ids, completion.logprobs, strict=True)]
        return Sample(ids, "stop" if ids and ids[-1] in self.settings.eot_ids else "length", logprobs)

    def take_weights(self, weights: "Iterable[tuple[str, Tensor]]") -> None:
        """Sample from these weights from now on (Hugging Face names, any dtype); wakes the engine if it sleeps."""
        if self._asleep:
            self.engine.wake_up()
            self._asleep = False
        self.engine.collective_rpc("reload_weights", kwargs={"weights_iterator": weights})
        if not self._on_gpu:
            self.engine.apply_model(_repack_head)
        self.engine.reset_prefix_cache()  # what it cached came from the old weights

    def sleep(self) -> None:
        """Give the GPU memory of weights and cache back until `take_weights`; does nothing without a GPU."""
        if self._can_sleep:
            self.engine.sleep(level=2)  # 2: the weights are dropped, not kept in main memory
            self._asleep = True

    def close(self) -> None:
        """Give the engine's memory back."""
        self._keys.clear()
        engine_core = getattr(self.engine, "engine_core", None)
        if hasattr(engine_core, "shutdown"):
            engine_core.shutdown()


def _repack_head(model: Any) -> None:
    """The CPU build packs the head's weights apart, and reloading forgets that copy when the head is tied."""
    if hasattr(model.lm_head, "cpu_linear"):
        model.lm_head.quant_method.process_weights_after_loading(model.lm_head)
