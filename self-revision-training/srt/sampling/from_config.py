"""Samplers: token ids in, token ids out. `open_sampler` chooses the backend and says which."""

import importlib.util
from typing import Any

from srt.common.errors import UserError
from srt.common.models import context_limit
from srt.config_groups import ParallelSamplerConfig
from srt.contract.layout import Layout
from srt.contract.records import Problem
from srt.sampling.base import LazySampler, Sampler, SamplingConfig
from srt.sampling.vllm_parallel import engine_count


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
    backend: str, model_path: str, settings: SamplingConfig, *, max_model_len: int | None, **options: Any
) -> Sampler:
    """A sampler over the checkpoint at `model_path`; see the backends for `options`.

    vLLM with the option `engines` runs so many engines in processes of their own, else one in this process.
    """
    if backend == "vllm" and options.get("engines"):
        from srt.sampling.vllm_parallel import VllmParallelSampler

        return VllmParallelSampler(model_path, settings, max_model_len=max_model_len, **options)
    if backend == "vllm":
        from srt.sampling.vllm_inprocess import VllmSampler

        print("vLLM: starting in this process", flush=True)
        return VllmSampler(model_path, settings, max_model_len=max_model_len, **options)
    from srt.sampling.transformers import TransformersSampler

    return TransformersSampler.from_checkpoint(model_path, settings, **options)


def sampler_from_config(
    config: ParallelSamplerConfig, layout: Layout, problems: list[Problem]
) -> tuple[LazySampler, int]:
    """The sampler that the knobs ask for, and the longest prompt and response together, in tokens."""
    # A revision's prompt holds a whole response; the few prompts that are longer than these are cut short
    # by the limit or set aside, and counted.
    longest_prompt = max(len(layout.chat(problem.x)) for problem in problems[:1000])
    wanted = longest_prompt + 2 * config.max_tokens + max(len(layout.cue(r)) for r in (0, 1))
    max_model_len = min(context_limit(config.model_path), wanted)
    backend = choose_backend(config.sampler)
    options = {"max_batch": config.sampler_batch, "dtype": config.dtype}
    engines = None
    if backend == "vllm":
        engines = engine_count(
            config.data_parallel_size, config.tensor_parallel_size, config.data_parallel_backend
        )
        options |= {
            "memory_utilization": config.gpu_memory_utilization,
            "tensor_parallel_size": config.tensor_parallel_size,
            "with_logprobs": False,  # nobody reads them here, and they cost throughput
        }
        if engines:
            options |= {"engines": engines, "data_parallel_backend": config.data_parallel_backend}
    settings = SamplingConfig(config.temperature, config.top_p, tuple(layout.eot_ids))
    sampler = LazySampler(
        lambda: open_sampler(backend, config.model_path, settings, max_model_len=max_model_len, **options),
        engines or 1,
    )
    return sampler, max_model_len
