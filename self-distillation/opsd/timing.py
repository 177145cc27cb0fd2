"""Where a step's time goes."""

import contextlib
import time
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Adds the block's wall-clock seconds; waits for the GPU, so that its work counts where it was asked for.

    A process that has no work on a GPU, such as the driver of NeMo-RL's workers, does not take memory of one by
    asking.
    """
    started = time.monotonic()
    yield
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    seconds[name] = seconds.get(name, 0.0) + time.monotonic() - started
