"""What both vLLM samplers share: environment, engine arguments, sampling parameters, samples."""

import logging
import os
from typing import Any

from srt.common.errors import UserError
from srt.sampling.base import Sample, SampleRequest, SamplingConfig

GRAPHED_BY_DEFAULT = 512  # vLLM captures CUDA graphs for batches up to this size unless told otherwise


def _is_error(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR


def prepare_vllm() -> bool:
    """Set what vLLM reads when it is imported, where the user has not; True when there is a GPU."""
    # Its reports on every start-up step would bury the progress bar; warnings and errors are shown.
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    # It warns, at every refresh of the weights, of modules that have none (rotary tables, tied heads). A filter,
    # since vLLM sets the levels of its loggers when it is imported.
    logging.getLogger("vllm.model_executor.model_loader.reload.layerwise").addFilter(_is_error)
    import torch

    on_gpu = torch.cuda.is_available()
    if not on_gpu:
        # Without these the CPU build reserves nearly all memory, and compiles for minutes.
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
        os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
    return on_gpu


def engine_arguments(
    model_path: str,
    *,
    on_gpu: bool,
    max_model_len: int | None,
    max_batch: int,
    dtype: str,
    memory_utilization: float,
    tensor_parallel_size: int,
    seed: int,
) -> dict[str, Any]:
    """Arguments of vLLM's engine. What is left to vLLM: chunked prefill and asynchronous scheduling (both on)."""
    return {
        "model": model_path,
        "dtype": ("bfloat16" if on_gpu else "float32") if dtype == "auto" else dtype,
        "max_model_len": max_model_len,
        "max_num_seqs": max_batch,
        # A batch without a CUDA graph waits for Python to launch its kernels, so all sizes get one. By itself
        # vLLM stops at 512; the graphs between 512 and 1024 take some seconds more at the start.
        "max_cudagraph_capture_size": max_batch if on_gpu and max_batch > GRAPHED_BY_DEFAULT else None,
        "enforce_eager": not on_gpu,
        "enable_prefix_caching": True,  # a revision reuses the cache of its problem and first response
        "gpu_memory_utilization": memory_utilization,
        "tensor_parallel_size": tensor_parallel_size,
        "seed": seed,
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
    }


def did_not_start(model_path: str, error: Exception) -> UserError:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return UserError(
        f"vLLM did not start on {model_path}: {reason} (a smaller MAX_TOKENS or SAMPLER_BATCH needs less memory; "
        "SAMPLER=transformers does without vLLM)"
    )


def sampling_params(settings: SamplingConfig, request: SampleRequest, with_logprobs: bool) -> Any:
    """vLLM's SamplingParams; only the finished sample comes back, not every token on its way."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        temperature=settings.temperature,
        top_p=settings.top_p,
        seed=request.seed,
        max_tokens=request.max_tokens,
        stop_token_ids=list(settings.eot_ids),
        ignore_eos=True,  # nothing else ends a response, not even an eos of the tokenizer's own
        logprobs=0 if with_logprobs else None,  # 0: the sampled token's, from the raw logits
        detokenize=False,
        skip_special_tokens=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def as_sample(completion: Any, settings: SamplingConfig) -> Sample:
    """One of vLLM's CompletionOutputs as a Sample."""
    ids = list(completion.token_ids)
    logprobs = None
    if completion.logprobs is not None:
        logprobs = [step[token].logprob for token, step in zip(ids, completion.logprobs, strict=True)]
    return Sample(ids, "stop" if ids and ids[-1] in settings.eot_ids else "length", logprobs)
