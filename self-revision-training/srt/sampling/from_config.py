"""Opens samplers: the backend, its options and the context length that follow from the config."""

import importlib.util
from typing import Any

from srt.common.errors import UserError
from srt.common.models import check_token_ids, context_limit, exceeds_embedding
from srt.config_groups import ParallelSamplerConfig
from srt.contract.layout import Layout
from srt.contract.records import Problem
from srt.sampling.base import LazySampler, Sampler, SamplingConfig
from srt.sampling.vllm_parallel import engine_count

MEASURED_PROMPTS = 1000  # tokenized to find the longest one


def has_vllm() -> bool:
    return importlib.util.find_spec("vllm") is not None


def choose_backend(knob: str) -> str:
    """The backend for SAMPLER: "vllm" or "transformers", printed. "auto" is vLLM if installed, else transformers.

    Raises UserError when vLLM is requested but not installed.
    """
    if knob == "vllm" and not has_vllm():
        raise UserError("SAMPLER=vllm: vLLM is not installed in this environment; use SAMPLER=transformers")
    if knob != "auto":
        print(f"sampler: {knob} (chosen by SAMPLER)")
        return knob
    backend = "vllm" if has_vllm() else "transformers"
    print(f"sampler: {backend} (SAMPLER=auto; vLLM is {'' if has_vllm() else 'not '}installed)")
    return backend


def open_sampler(
    backend: str, model_path: str, config: SamplingConfig, *, max_model_len: int | None, **options: Any
) -> Sampler:
    """A sampler for the checkpoint at `model_path`; for `options`, see the classes of the backends.

    With the option `engines`, vLLM runs that many engines in separate processes, else one in this process.
    `max_model_len` (prompt and response, in tokens) is only for vLLM. Raises UserError when it does not start.
    """
    if backend == "vllm" and options.get("engines"):
        from srt.sampling.vllm_parallel import VllmParallelSampler

        return VllmParallelSampler(model_path, config, max_model_len=max_model_len, **options)
    if backend == "vllm":
        from srt.sampling.vllm_inprocess import VllmSampler

        print("vLLM: starting in this process", flush=True)
        return VllmSampler(model_path, config, max_model_len=max_model_len, **options)
    from srt.sampling.transformers import TransformersSampler

    return TransformersSampler.from_checkpoint(model_path, config, **options)


def longest_sequence(model_path: str, layout: Layout, prompts: list[list[int]], max_tokens: int) -> int:
    """Prompt, response, cue and revision together, in tokens, within the model's context length."""
    longest = max(map(len, prompts)) + 2 * max_tokens + max(len(layout.cue(r)) for r in (0, 1))
    return min(context_limit(model_path), longest)


def sampler_from_config(
    config: ParallelSamplerConfig,
    model_path: str,
    layout: Layout,
    problems: list[Problem],
    with_logprobs: bool = False,
) -> tuple[LazySampler, int]:
    """The sampler for collection or evaluation, and the maximum of prompt and response together, in tokens.

    `with_logprobs`: vLLM returns the log-probs of the sampled tokens, which costs throughput; transformers always
    does.
    """
    # The prompt of a revision contains a whole response. Prompts longer than the measured ones are rare: their
    # responses are cut short, or they are set aside, and both are counted.
    measured = len(problems) if exceeds_embedding(model_path, layout.tokenizer) else MEASURED_PROMPTS
    prompts = [layout.chat(problem.x) for problem in problems[:measured]]
    cues = [layout.cue(r) for r in (0, 1)]
    check_token_ids(model_path, layout.tokenizer, (index for ids in (*prompts, *cues) for index in ids))
    max_model_len = longest_sequence(model_path, layout, prompts, config.max_tokens)
    backend = choose_backend(config.sampler)
    options: dict[str, Any] = {"max_batch": config.sampler_batch, "dtype": config.dtype}
    engines = None
    if backend == "vllm":
        engines = engine_count(
            config.data_parallel_size, config.tensor_parallel_size, config.data_parallel_backend
        )
        options |= {
            "memory_utilization": config.gpu_memory_utilization,
            "tensor_parallel_size": config.tensor_parallel_size,
            "with_logprobs": with_logprobs,
        }
        if engines:
            options |= {"engines": engines, "data_parallel_backend": config.data_parallel_backend}
    sampling = SamplingConfig(config.temperature, config.top_p, tuple(layout.eot_ids))
    sampler = LazySampler(
        lambda: open_sampler(backend, model_path, sampling, max_model_len=max_model_len, **options),
        engines or 1,
    )
    return sampler, max_model_len
