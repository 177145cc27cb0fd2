"""Samplers: token ids in, token ids out. `open_sampler` chooses the backend and says which."""

import importlib.util
from typing import Any

from srt.errors import UserError
from srt.sampling.base import OnDemandSampler, Sample, Sampler, SampleRequest, SamplingSettings

__all__ = [
    "OnDemandSampler", "Sample", "SampleRequest", "Sampler", "SamplingSettings", "choose_backend", "open_sampler",
]  # fmt: skip


def choose_backend(knob: str) -> str:
    """SAMPLER=auto takes vLLM where it is installed, transformers otherwise, and says so.

    Raises UserError when vLLM is asked for and missing.
    """
    has_vllm = importlib.util.find_spec("vllm") is not None
    if knob == "vllm" and not has_vllm:
        raise UserError("SAMPLER=vllm: vLLM is not installed in this environment; use SAMPLER=transformers")
    if knob != "auto":
        print(f"sampler: {knob} (chosen by SAMPLER)")
        return knob
    backend = "vllm" if has_vllm else "transformers"
    print(f"sampler: {backend} (SAMPLER=auto; vLLM is {'' if has_vllm else 'not '}installed)")
    return backend


def open_sampler(
    backend: str, model_path: str, settings: SamplingSettings, *, max_model_len: int | None, **options: Any
) -> Sampler:
    """A sampler over the checkpoint at `model_path`; see the backends for `options`.

    vLLM with the option `engines` runs so many engines in processes of their own, else one in this process.
    """
    if backend == "vllm" and options.get("engines"):
        from srt.sampling.vllm_parallel import VllmParallelSampler

        return VllmParallelSampler(model_path, settings, max_model_len=max_model_len, **options)
    if backend == "vllm":
        from srt.sampling.vllm_sampler import VllmSampler

        print("vLLM: starting in this process", flush=True)
        return VllmSampler(model_path, settings, max_model_len=max_model_len, **options)
    from srt.sampling.transformers_sampler import TransformersSampler

    return TransformersSampler.from_checkpoint(model_path, settings, **options)
