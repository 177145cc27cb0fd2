"""The arms "offline" and "matmul" of whole_step.py: what the other arms' sampling and training is held against."""

import os
import time
from typing import Any

from step_common import Options, in_steps, length_of

from srt.sampling.vllm_common import prepare_vllm


def rollouts(options: Options) -> dict[str, Any]:
    """tokens/s of vLLM offline on one GPU, with the requests of the first timed step: all of them for one engine,
    each half of them for two, and so on. Without log-probs and seeds, which rollouts need."""
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    on_gpu = prepare_vllm()
    import vllm
    from vllm import SamplingParams
    from vllm.inputs import tokens_input

    chats = in_steps(options)[0]
    started = time.monotonic()
    llm = vllm.LLM(
        options.model,
        max_model_len=options.prompt_tokens + options.max_tokens,
        max_num_seqs=options.sampler_batch,
        enforce_eager=not on_gpu,
    )
    start_seconds = time.monotonic() - started

    def seconds(chats: list[list[int]]) -> float:
        params = [SamplingParams(max_tokens=length_of(chat, options), ignore_eos=True) for chat in chats]
        llm.reset_prefix_cache()
        begun = time.monotonic()
        llm.generate([tokens_input(chat) for chat in chats], params, use_tqdm=False)
        return time.monotonic() - begun

    seconds(chats[:2])
    tokens = sum(length_of(chat, options) for chat in chats)
    rates, engines = {}, 1
    while engines <= max(1, options.arm_gpus) and len(chats) % engines == 0:
        size = len(chats) // engines
        slowest = max(seconds(chats[start : start + size]) for start in range(0, len(chats), size))
        rates[engines] = tokens / slowest / engines
        engines *= 2
    return {"start_seconds": start_seconds, "rates": rates}


def matmul(options: Options) -> dict[str, Any]:
    from step_arithmetic import matmul_rate

    return {"flops": matmul_rate(options.matmul)}
