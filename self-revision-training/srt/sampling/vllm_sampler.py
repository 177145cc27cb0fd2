"""Sampling with vLLM: the GPU build or the CPU build, through the same Python API.

Requests enter the engine at once and leave it one by one, so its scheduler always has work (continuous
batching); prefix caching lets a revision reuse the cache of its problem and first response.
"""

import os
from collections.abc import Hashable
from typing import Any

from srt.errors import UserError
from srt.sampling.base import Sample, SampleRequest, SamplingSettings


class VllmSampler:
    """`max_model_len`: prompt and response together; None takes the model's own limit.

    `max_batch` bounds the sequences that run at the same time; `memory_utilization` is vLLM's share of the
    GPU. Raises UserError when the engine does not start.
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
                seed=seed,
                disable_log_stats=True,
            ).llm_engine
        except (ValueError, RuntimeError, OSError) as error:
            raise UserError(
                f"vLLM did not start on {model_path}: {str(error).splitlines()[0]} (a smaller MAX_TOKENS or "
                "SAMPLER_BATCH needs less memory; SAMPLER=transformers does without vLLM)"
            ) from error
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

    def close(self) -> None:
        """Give the engine's memory back."""
        self._keys.clear()
        engine_core = getattr(self.engine, "engine_core", None)
        if hasattr(engine_core, "shutdown"):
            engine_core.shutdown()
