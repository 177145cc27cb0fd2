"""Sampling with vLLM engines in separate processes: collection and evaluation on GPUs.

Scheduling and sampling continue while this process grades and writes, and one engine per GPU (vLLM's data
parallelism) uses them all. Requests enter immediately and leave one by one, so every engine always has work.
"""

import asyncio
import concurrent.futures
import logging
import multiprocessing
import os
import queue
import threading
import time
from collections.abc import Hashable
from typing import Any

from srt.common.errors import UserError
from srt.common.models import has_experts, load_model_config
from srt.common.progress import describe_processes, heartbeat
from srt.common.ray_auth import require_token
from srt.sampling.base import Sample, SampleRequest, SamplingConfig
from srt.sampling.process_guard import ChildProcessGuard
from srt.sampling.vllm_common import (
    as_sample,
    did_not_start,
    engine_arguments,
    prepare_vllm,
    sampling_params,
    with_second_runner,
)

# How long poll waits when nothing has finished: long enough not to burn CPU, short enough to hardly delay a
# verdict that arrives meanwhile (a sample takes seconds).
POLL_SECONDS = 0.01

LOOK_SECONDS = 2.0  # between questions to Ray whether the engines are still there

# A step in which a request enters cannot use the CUDA graph of a pure decoding step, and with hundreds of
# requests in flight one enters at nearly every step. Requests are therefore held for this long and admitted
# together, which leaves most steps to the graph; against the seconds that a request takes, the delay is small.
ADMISSION_SECONDS = 0.2


class VllmParallelSampler:
    """`max_batch` and `memory_utilization` are per engine; for the other options, see VllmSampler.

    `engines`: copies of the model, each on `tensor_parallel_size` GPUs. `data_parallel_backend`: "mp" starts
    them on this machine, "ray" on the machines of its Ray cluster. Raises UserError when an engine does not
    start, and from `poll` when one dies.
    """

    def __init__(
        self,
        model_path: str,
        config: SamplingConfig,
        *,
        max_model_len: int | None,
        max_batch: int,
        dtype: str = "auto",
        memory_utilization: float = 0.9,
        tensor_parallel_size: int = 1,
        engines: int = 1,
        data_parallel_backend: str = "mp",
        with_logprobs: bool = False,
        seed: int = 0,
    ):
        if data_parallel_backend == "ray":
            require_token("DATA_PARALLEL_BACKEND=ray")  # before vLLM imports it
        on_gpu = prepare_vllm()
        # This process has threads (for grading, and the sampler's own), so a fork of it may hang.
        os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
        # Fill one machine after the other, even if they have different numbers of GPUs.
        os.environ.setdefault("VLLM_RAY_DP_PACK_STRATEGY", "fill")
        self.config = config
        self.with_logprobs = with_logprobs
        self.engines = engines
        self.on_ray = engines > 1 and data_parallel_backend == "ray"
        self._next_look = 0.0
        self.admission_seconds = ADMISSION_SECONDS if on_gpu else 0.0
        arguments = engine_arguments(
            model_path,
            on_gpu=on_gpu,
            max_model_len=max_model_len,
            max_batch=max_batch,
            dtype=dtype,
            memory_utilization=memory_utilization,
            tensor_parallel_size=tensor_parallel_size,
            seed=seed,
        )
        if engines > 1:
            arguments |= {"data_parallel_size": engines, "data_parallel_backend": data_parallel_backend}
            # An engine on one GPU computes in its own process, as a single engine does. By default, each of
            # several starts another for it, which imports vLLM once more, and talks to it at every step. Those of
            # a mixture of experts share the experts' work; there, vLLM's own choice stays.
            alone = tensor_parallel_size == 1 and not has_experts(load_model_config(model_path))
            if data_parallel_backend == "mp" and alone:
                arguments["distributed_executor_backend"] = "uni"
            if data_parallel_backend == "ray":
                arguments["data_parallel_size_local"] = min(engines, visible_gpus() // tensor_parallel_size)
                del arguments["worker_extension_cls"]  # other machines may not find this package
        # None: the engine died before the sample was finished.
        self._finished: queue.SimpleQueue[tuple[Hashable, Sample | Exception | None]] = queue.SimpleQueue()
        self._dead = False
        self._pending = 0
        self._submitted = 0
        self._tasks: set[asyncio.Task] = set()  # this and the next: only for the thread of the loop
        self._held: list[tuple[Hashable, SampleRequest, str, int]] = []  # admitted together
        self._load = [0] * engines  # requests in flight
        self._rank_of: dict[Hashable, int] = {}  # group -> the engine whose cache holds its prefix
        self._ranks: dict[Hashable, int] = {}  # key -> its engine, while in flight
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="vllm", daemon=True)
        self._thread.start()
        self._guard = ChildProcessGuard()
        self._start(model_path, arguments, on_gpu)

    def _start(self, model_path: str, arguments: dict[str, Any], on_gpu: bool) -> None:
        started = time.monotonic()
        print(f"vLLM: starting {self.engines} engine process{'es' * (self.engines > 1)}", flush=True)
        others = set(multiprocessing.active_children())  # graders, which end by themselves
        starting = asyncio.run_coroutine_threadsafe(_start_engine(arguments, on_gpu), self.loop)
        try:
            pids: set[int] = set()
            with heartbeat("vLLM is starting", lambda: describe_processes(pids.copy())):
                while not starting.done():
                    concurrent.futures.wait([starting], timeout=0.2)
                    started_now = set(multiprocessing.active_children()) - others
                    pids |= {child.pid for child in started_now if child.pid is not None}
                    self._guard.watch(pids)
            self.engine = starting.result()
            # poll reports a dead engine in one sentence; the engine's process has printed why.
            logging.getLogger("vllm.v1.engine.async_llm").setLevel(logging.CRITICAL)
        except BaseException as error:  # or Ctrl-C while it starts
            self._guard.kill_all()
            expected = isinstance(
                error, ValueError | RuntimeError | OSError | AssertionError
            )  # it asserts its input
            if isinstance(error, Exception) and (expected or type(error).__module__.startswith("ray.")):
                raise did_not_start(model_path, error) from error
            raise
        print(f"vLLM: ready after {time.monotonic() - started:.0f} s", flush=True)

    @property
    def pending(self) -> int:
        return self._pending

    def submit(self, key: Hashable, request: SampleRequest) -> None:
        self._pending += 1
        self._submitted += 1
        rank = self._rank_for(key, request.group)
        self.loop.call_soon_threadsafe(self._hold, key, request, str(self._submitted), rank)

    def poll(self) -> list[tuple[Hashable, Sample]]:
        """The samples that finished since the last call; waits a moment if there is none.

        Raises UserError when an engine died, once all finished samples have been returned.
        """
        samples: list[tuple[Hashable, Sample]] = []
        while self._pending and not self._dead:
            try:
                key, outcome = self._finished.get(block=not samples, timeout=POLL_SECONDS)
            except queue.Empty:
                self._dead = not samples and (self.engine.errored or self._actor_ended())
                break
            if outcome is None:
                self._dead = True
                break
            if isinstance(outcome, Exception):
                raise outcome
            self._pending -= 1
            self._load[self._ranks.pop(key)] -= 1
            samples.append((key, outcome))
        if self._dead and not samples:
            raise UserError(
                "a vLLM engine died (its error message, if any, is above); every graded sample is in the log, and "
                "the same command continues from there"
            )
        return samples

    def _actor_ended(self) -> bool:
        """Whether an engine on a Ray cluster is gone, as with its node: not every version of vLLM notices."""
        if not self.on_ray or time.monotonic() < self._next_look:
            return False
        import ray

        self._next_look = time.monotonic() + LOOK_SECONDS
        manager: Any = self.engine.engine_core.resources.engine_manager
        ended, _ = ray.wait(list(manager.run_refs), num_returns=1, timeout=0)
        return bool(ended)

    def drop(self) -> None:
        """Drop all requests in flight, and the assignment of groups to engines."""
        asyncio.run_coroutine_threadsafe(self._forget(), self.loop).result()
        while not self._finished.empty():
            self._finished.get()
        self._ranks.clear()
        self._rank_of.clear()
        self._load = [0] * self.engines
        self._pending = 0

    def close(self) -> None:
        """End the engine processes."""
        if self.loop.is_closed():
            return
        self.drop()
        asyncio.run_coroutine_threadsafe(_cancel(asyncio.all_tasks(self.loop)), self.loop).result()
        # They have nothing to lose. When asked to shut down, those with vLLM 0.20's second model runner, which
        # lacks `shutdown`, print a page of traceback below the summary.
        logging.getLogger("vllm.v1.engine.core_client").setLevel(logging.CRITICAL)
        self._guard.kill_all()
        self.engine.shutdown()
        del self.engine  # its destructor fails while Python shuts down
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()

    def _rank_for(self, key: Hashable, group: Hashable) -> int:
        """The engine that has the prefix of the group cached, or the least busy one for a new group."""
        rank = self._rank_of.get(group) if group is not None else None
        if rank is None:
            rank = self._load.index(min(self._load))
            if group is not None:
                self._rank_of[group] = rank
        self._load[rank] += 1
        self._ranks[key] = rank
        return rank

    # In the thread of the loop --------------------------------------------------------------------------

    def _hold(self, *request: Any) -> None:
        if not self._held:
            self.loop.call_later(self.admission_seconds, self._admit)
        self._held.append(request)

    def _admit(self) -> None:
        for request in self._held:
            task = self.loop.create_task(self._sample(*request))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        self._held.clear()

    async def _forget(self) -> None:
        self._held.clear()
        await _cancel(self._tasks)

    async def _sample(self, key: Hashable, request: SampleRequest, name: str, rank: int) -> None:
        from vllm.v1.engine.exceptions import EngineDeadError

        try:
            self._finished.put((key, await self.generate(request, name, rank)))
        except EngineDeadError:
            self._finished.put((key, None))
        except Exception as error:  # raised again by poll, in the thread that waits for the sample
            self._finished.put((key, error))

    async def generate(self, request: SampleRequest, name: str, rank: int | None = None) -> Sample:
        from vllm.inputs import tokens_input

        params = sampling_params(self.config, request, self.with_logprobs)
        prompt = tokens_input(request.prompt_ids)
        async for output in self.engine.generate(prompt, params, name, data_parallel_rank=rank):
            final = output
        return as_sample(final.outputs[0], self.config)


async def _cancel(tasks: set[asyncio.Task]) -> None:
    tasks = set(tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _start_engine(arguments: dict[str, Any], on_gpu: bool) -> Any:
    from vllm import AsyncEngineArgs
    from vllm.usage.usage_lib import UsageContext
    from vllm.v1.engine.async_llm import AsyncLLM

    def start() -> AsyncLLM:
        # This context selects the defaults of offline inference, which favor throughput: prefill of 16384 tokens
        # per step on GPUs with at least 70 GiB, 8192 on others (without a context: 2048).
        return AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments), usage_context=UsageContext.LLM_CLASS)

    return with_second_runner(start, on_gpu)


def visible_gpus() -> int:
    import torch

    return torch.cuda.device_count()


def engine_count(
    data_parallel_size: int | None, tensor_parallel_size: int, backend: str, gpus: int | None = None
) -> int | None:
    """Number of engine processes; None for one engine in this process (no GPU, and no number requested). `gpus`:
    those of the machine, if it is not this one.

    Raises UserError when there are too few GPUs, or for `backend` "ray" without a number.
    """
    gpus = visible_gpus() if gpus is None else gpus
    if backend == "ray":
        if data_parallel_size is None:
            raise UserError(
                "DATA_PARALLEL_BACKEND=ray needs DATA_PARALLEL_SIZE: the number of engines on all machines"
            )
        return data_parallel_size
    if not gpus:
        return data_parallel_size
    engines = data_parallel_size or gpus // tensor_parallel_size
    if not engines or engines * tensor_parallel_size > gpus:
        raise UserError(
            f"DATA_PARALLEL_SIZE={max(engines, 1)} engines on TENSOR_PARALLEL_SIZE={tensor_parallel_size} GPUs "
            f"each: only {gpus} are visible"
        )
    return engines
