"""What the driver's NemoSampler asks of each vLLM engine: requests in, samples out as they finish."""

import time
from collections.abc import Hashable
from typing import Protocol

from srt.sampling.base import Sample, SampleRequest

Requests = list[tuple[Hashable, SampleRequest]]
Samples = list[tuple[Hashable, Sample]]


class EngineSampler(Protocol):
    """As InterruptibleSampler (srt/sampling/base.py); the worker itself ends the engine."""

    @property
    def pending(self) -> int: ...

    def submit(self, key: Hashable, request: SampleRequest) -> None: ...

    def poll(self, enough: int | None = None) -> Samples: ...

    def interrupt(self) -> Samples: ...

    def metrics(self) -> dict[str, float]: ...

    def reset_metrics(self) -> None: ...


class SamplingWorker:
    """Methods of a worker with a `sampler` of its own. They are called one at a time."""

    sampler: EngineSampler

    def sample(self, new: Requests, seconds: float, enough: int | None = None) -> Samples:
        """Take requests, sample for about that long, and return what has finished by then: sooner when `enough`
        samples have finished, or all."""
        for key, request in new:
            self.sampler.submit(key, request)
        samples: Samples = []
        deadline = time.monotonic() + seconds
        while self.sampler.pending:
            samples += self.sampler.poll(None if enough is None else enough - len(samples))
            if time.monotonic() >= deadline or (enough is not None and len(samples) >= enough):
                break
        return samples

    def interrupt_samples(self) -> Samples:
        """Drop what is under way; what was sampled of it."""
        return self.sampler.interrupt()

    def sampling_metrics(self) -> dict[str, float]:
        return self.sampler.metrics()

    def reset_sampling_metrics(self) -> None:
        self.sampler.reset_metrics()
