"""Requests to a vLLM engine that works in this process, only while `poll` runs."""

from collections.abc import Hashable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from srt.sampling.base import Sample, SampleRequest, SamplingConfig
from srt.sampling.kv_cache_use import KVCacheUse
from srt.sampling.vllm_common import as_sample, cannot_sample, sampling_params


class VllmRequests:
    """An InterruptibleSampler (base.py), but for `close`.

    `engine`: a vLLM LLMEngine; `config`: for requests without their own. `metrics` are since `reset_metrics`.
    """

    def __init__(self, engine: Any, config: SamplingConfig, model_path: str, with_logprobs: bool = True):
        self.engine = engine
        self.config = config
        self.with_logprobs = with_logprobs
        self._model_path = model_path
        self._keys: dict[str, Hashable] = {}
        self._submitted = 0
        self._has_sampled = False
        # None where the user has put the engine into a process of its own.
        self._core: Any = getattr(self.engine.engine_core, "engine_core", None)
        self.reset_metrics()

    @property
    def pending(self) -> int:
        return len(self._keys)

    def submit(self, key: Hashable, request: SampleRequest) -> None:
        from vllm.inputs import tokens_input

        name = str(self._submitted)  # vLLM needs a string; a key may be any hashable
        self._submitted += 1
        self._keys[name] = key
        params = sampling_params(self.config, request, self.with_logprobs)
        self.engine.add_request(name, tokens_input(request.prompt_ids), params)

    def poll(self, enough: int | None = None) -> list[tuple[Hashable, Sample]]:
        """One step of the engine, in which any number of samples may finish."""
        if not self._keys:
            return []
        try:
            outputs: list[Any] = self.engine.step()  # of generation: vLLM's type also has pooling
        except Exception as error:
            if self._has_sampled:
                raise
            raise cannot_sample(self._model_path, error) from error
        self._has_sampled = True
        if self._core is not None:
            self._cache_use.record(self._core.scheduler)
        return [
            (self._keys.pop(output.request_id), as_sample(output.outputs[0], self.config))
            for output in outputs
            if output.finished
        ]

    def interrupt(self) -> list[tuple[Hashable, Sample]]:
        """vLLM returns nothing of an aborted request, so its tokens are read where they are collected."""
        if not self._keys:
            return []
        states = {
            getattr(state, "external_req_id", state.request_id): state
            for state in self.engine.output_processor.request_states.values()
        }
        samples = [(key, self._so_far(states[name])) for name, key in self._keys.items()]
        self.engine.abort_request(list(self._keys))
        self._keys.clear()
        while getattr(self._core, "batch_queue", None):  # scheduled ahead; it must not meet the next weights
            self.engine.step()
        return samples

    def _so_far(self, state: Any) -> Sample:
        """What a request has sampled. `state`: vLLM's RequestState."""
        completion = SimpleNamespace(
            token_ids=state.detokenizer.output_token_ids,
            logprobs=state.logprobs_processor.logprobs,  # None for a request without them
        )
        return replace(as_sample(completion, self.config), finish_reason="interrupted")

    def metrics(self) -> dict[str, float]:
        return self._cache_use.metrics()

    def reset_metrics(self) -> None:
        self._cache_use = KVCacheUse()
