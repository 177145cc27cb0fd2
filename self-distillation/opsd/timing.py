"""Where a step's time goes: each span adds its wall-clock seconds to the recording around it."""

import contextlib
import time
from collections.abc import Iterator
from contextvars import ContextVar

import torch

_recording: ContextVar[dict[str, float] | None] = ContextVar("recording", default=None)


@contextlib.contextmanager
def record_spans(rest: str | None = None) -> Iterator[dict[str, float]]:
    """The seconds of every span inside the block, by name; complete when the block ends.

    rest: the name under which the time that no span covered is added.
    """
    seconds: dict[str, float] = {}
    started = time.monotonic()
    token = _recording.set(seconds)
    try:
        yield seconds
    finally:
        _recording.reset(token)
    if rest:
        seconds[rest] = time.monotonic() - started - sum(seconds.values())


@contextlib.contextmanager
def span(name: str) -> Iterator[None]:
    """Measures the block, waiting for the GPU so that its work counts where it was launched.

    Without a recording nothing is measured and nothing waits. A process that has no work on a GPU, such as the
    driver of NeMo-RL's workers, does not claim GPU memory by asking.
    """
    if _recording.get() is None:
        yield
        return
    started = time.monotonic()
    yield
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    add_span(name, time.monotonic() - started)


@contextlib.contextmanager
def report_start() -> Iterator[None]:
    """Prints how long the block took, and its spans: the parts of an engine's start."""
    with record_spans(rest="other") as seconds:
        yield
    parts = ", ".join(f"{name} {part:.0f}" for name, part in sorted(seconds.items(), key=lambda item: -item[1]))
    print(f"started in {sum(seconds.values()):.0f} s ({parts})", flush=True)


def add_span(name: str, seconds: float) -> None:
    """Adds time that was measured elsewhere, in a worker process for example."""
    recording = _recording.get()
    if recording is not None:
        recording[name] = recording.get(name, 0.0) + seconds
