"""Torch's process group under the vLLM engines of this process.

The first engine sets it up, for this process alone. vLLM 0.20 leaves it behind when an engine ends, and NCCL warns
of that when the process exits; newer versions end it themselves.
"""

import contextlib
from collections.abc import Iterator

from srt.common.errors import reason_of


class EngineGroup:
    """Ends the group with the last engine, unless it was there before the first one."""

    def __init__(self) -> None:
        self._open: set[int] = set()
        self._is_vllms = False

    @contextlib.contextmanager
    def starting(self, owner: object) -> Iterator[None]:
        """The block in which the engine of `owner` starts."""
        import torch.distributed as dist  # heavy

        was_there = dist.is_initialized()
        yield
        self._open.add(id(owner))
        if not was_there:
            self._is_vllms = dist.is_initialized()

    def leave(self, owner: object) -> None:
        """The engine of `owner` has been shut down. What goes wrong here is a line: no run depends on it."""
        import torch.distributed as dist

        self._open.discard(id(owner))
        self._is_vllms = self._is_vllms and dist.is_initialized()
        if self._open or not self._is_vllms:
            return
        self._is_vllms = False
        try:
            from vllm.distributed import destroy_distributed_environment, destroy_model_parallel

            destroy_model_parallel()
            destroy_distributed_environment()
        except Exception as error:
            print(f"vLLM: its process group could not be ended ({reason_of(error)})", flush=True)


GROUP = EngineGroup()
