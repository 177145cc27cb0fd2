"""How vLLM's scheduler and KV cache were used: whether requests waited because the cache was full."""

import math
from typing import Any

from srt.contract import metrics as names


class KVCacheUse:
    """Collects, after each step of an engine, what its scheduler says. Reading it costs microseconds; vLLM's own
    statistics (`disable_log_stats`) also time every token of every request."""

    def __init__(self) -> None:
        self.steps = 0
        self.running = 0  # sum over steps
        self.waiting = 0  # the most
        self.use = 0.0  # the highest share
        self.steps_waited = 0
        self.preemptions = 0
        self._preempted: dict[str, int] = {}  # request under way -> how often so far

    def record(self, scheduler: Any) -> None:
        """`scheduler`: vLLM's, after a step."""
        self.steps += 1
        self.running += len(scheduler.running)
        self.waiting = max(self.waiting, len(scheduler.waiting))
        self.use = max(self.use, scheduler.kv_cache_manager.usage)
        self.steps_waited += _waits_for_cache(scheduler)
        preempted = {name: request.num_preemptions for name, request in scheduler.requests.items()}
        self.preemptions += sum(count - self._preempted.get(name, 0) for name, count in preempted.items())
        self._preempted = preempted

    def metrics(self) -> dict[str, float]:
        """Empty before the first step."""
        if not self.steps:
            return {}
        return {
            names.REQUESTS_RUNNING: self.running / self.steps,
            names.REQUESTS_WAITING: self.waiting,
            names.KV_CACHE_USE: self.use,
            names.WAITED_FOR_CACHE: self.steps_waited / self.steps,
            names.PREEMPTIONS: self.preemptions,
        }


def _waits_for_cache(scheduler: Any) -> bool:
    """Whether the next request does not fit into what is free of the cache.

    A request also waits while max_num_seqs others run, or while prompts before it take all tokens of a step.
    """
    if not scheduler.waiting or len(scheduler.running) >= scheduler.max_num_running_reqs:
        return False
    blocks = math.ceil(next(iter(scheduler.waiting)).num_tokens / scheduler.block_size)
    return blocks > scheduler.kv_cache_manager.block_pool.get_num_free_blocks()
