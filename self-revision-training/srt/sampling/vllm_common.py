"""Shared by both vLLM samplers: environment, engine arguments, sampling parameters, samples."""

import logging
import os
import sys
from collections.abc import Callable
from typing import Any, TypeVar

from srt.common.errors import UserError, reason_of, typed_reason_of
from srt.common.remote_code import needs_remote_code, remote_code_allowed, remote_code_message
from srt.sampling.base import Sample, SampleRequest, SamplingConfig

WITHOUT_VLLM = "SAMPLER=transformers works without vLLM"
WORKER_EXTENSION = "srt.sampling.vllm_compile_key.SharedCompiledCode"
DEFAULT_CAPTURE_SIZE = 512  # the largest batch for which vLLM captures a CUDA graph by default

# vLLM's second model runner draws the noise of seeded requests in one kernel; the first, the default of vLLM
# 0.20, draws it sequence by sequence in Python. If the user has set the variable, that wins.
RUNNER = "VLLM_USE_V2_MODEL_RUNNER"
_runner_of_user = RUNNER in os.environ  # before an engine of another model was started here

Engine = TypeVar("Engine")


def _is_error(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR


def prepare_vllm() -> bool:
    """Set what vLLM reads from the environment on import, unless the user has; returns whether there is a GPU."""
    # Its messages about each step of the start-up would bury the progress bar; warnings and errors are shown.
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    # With every weight update it warns about modules without weights (rotary tables, tied heads). This is a
    # filter because vLLM sets the levels of its loggers when it is imported.
    logging.getLogger("vllm.model_executor.model_loader.reload.layerwise").addFilter(_is_error)
    import torch

    on_gpu = torch.cuda.is_available()
    if not on_gpu:
        # Without these, the CPU build reserves nearly all memory and compiles for minutes.
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
        os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
    return on_gpu


def with_second_runner(start: Callable[[], Engine], on_gpu: bool) -> Engine:
    """What `start` starts, on a GPU with vLLM's second model runner; with the first one, and a line that says so,
    for a model that the second does not support."""
    if not on_gpu or _runner_of_user:
        return start()
    if "vllm.envs" in sys.modules:  # an engine that was started here before has fixed the variables
        sys.modules["vllm.envs"].disable_envs_cache()
    os.environ[RUNNER] = "1"
    try:
        return start()
    except ValueError as error:  # from validating the configuration, before anything was started
        if RUNNER not in str(error):
            raise
        print(f"vLLM: using the first model runner, because {reason_of(error)}", flush=True)
        os.environ[RUNNER] = "0"
        return start()


def capture_size(max_batch: int) -> int | None:
    """Up to which batch vLLM captures CUDA graphs; None: its default.

    A batch without one waits for Python to launch its kernels, so all sizes get one. The graphs between vLLM's
    default of 512 and 1024 take a few more seconds at the start.
    """
    return max_batch if max_batch > DEFAULT_CAPTURE_SIZE else None


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
    """Arguments of vLLM's engine. Chunked prefill and asynchronous scheduling are on by default."""
    from srt.common.models import vllm_overrides  # torch is heavy

    return {
        "model": model_path,
        "dtype": ("bfloat16" if on_gpu else "float32") if dtype == "auto" else dtype,
        "max_model_len": max_model_len,
        "hf_overrides": vllm_overrides(model_path),
        "max_num_seqs": max_batch,
        "max_cudagraph_capture_size": capture_size(max_batch) if on_gpu else None,
        "enforce_eager": not on_gpu,
        "enable_prefix_caching": True,  # a revision reuses the cache of its problem and first response
        "gpu_memory_utilization": memory_utilization,
        "tensor_parallel_size": tensor_parallel_size,
        "seed": seed,
        "trust_remote_code": remote_code_allowed(),
        "worker_extension_cls": WORKER_EXTENSION,
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
    }


def sleep_level(config: Any) -> int:
    """vLLM's sleep level for an engine that is given all its weights again after waking up.

    config: the model's transformers config. At level 2 the weights are dropped: a copy in main memory (level 1)
    would only be overwritten. vLLM then keeps the buffers, which are in no checkpoint, and restores them. ALiBi's
    slopes are neither: they are plain tensors of the attention layers, and would be lost.
    """
    text = config.get_text_config()
    attention = getattr(text, "attn_config", None) or {}
    attention = attention if isinstance(attention, dict) else vars(attention)
    has_alibi = (
        text.model_type == "bloom"
        or getattr(text, "alibi", False)
        or attention.get("alibi", False)
        or getattr(text, "position_embedding_type", None) == "alibi"
    )
    return 1 if has_alibi else 2


def did_not_start(model_path: str, error: Exception) -> UserError:
    """The error for an engine that failed to start."""
    if needs_remote_code(error):
        return UserError(remote_code_message(model_path, "model"))
    reason = typed_reason_of(error).partition("Supported architectures:")[0].strip()  # a page of them follows
    unsupported = reason.startswith("Model architecture")
    advice = "" if unsupported else "a smaller MAX_TOKENS or SAMPLER_BATCH needs less memory; "
    return UserError(f"vLLM did not start on {model_path}: {reason} ({advice}{WITHOUT_VLLM})")


def cannot_sample(model_path: str, error: Exception) -> Exception:
    """What to raise when an engine failed in its first step: some models start and are then found unsupported."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return error
    return UserError(
        f"vLLM started on {model_path} and cannot compute it: {typed_reason_of(error)} ({WITHOUT_VLLM})"
    )


def sampling_params(config: SamplingConfig, request: SampleRequest, with_logprobs: bool) -> Any:
    """vLLM's SamplingParams for a request; the engine returns finished samples only, not single tokens.

    `config`: the sampler's own, for requests without one.
    """
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    config = request.sampling or config
    return SamplingParams(
        temperature=config.temperature,
        top_p=config.top_p,
        seed=request.seed,
        max_tokens=request.max_tokens,
        stop_token_ids=list(config.eot_ids),
        ignore_eos=True,  # only `eot_ids` end a response, not the tokenizer's eos
        # 0: only that of the sampled token, from the raw logits
        logprobs=0 if with_logprobs and request.logprobs else None,
        detokenize=False,
        skip_special_tokens=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def as_sample(completion: Any, config: SamplingConfig) -> Sample:
    """Converts vLLM's CompletionOutput."""
    ids = list(completion.token_ids)
    logprobs = None
    if completion.logprobs is not None:
        logprobs = [step[token].logprob for token, step in zip(ids, completion.logprobs, strict=True)]
    return Sample(ids, "stop" if ids and ids[-1] in config.eot_ids else "length", logprobs)
