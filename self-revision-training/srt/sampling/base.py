"""The sampler Protocols: requests go in at any time, samples come out as they finish."""

import time
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from srt.common.progress import heartbeat

if TYPE_CHECKING:  # torch is heavy
    from torch import Tensor


@dataclass(frozen=True)
class SamplingConfig:
    """`temperature` 0 is greedy. `eot_ids`: the tokens that end a response."""

    temperature: float
    top_p: float
    eot_ids: tuple[int, ...]


@dataclass(frozen=True)
class SampleRequest:
    """`seed` alone determines the randomness of the sample, whatever else is sampled at the same time.

    Requests of one `group` share a prefix: with several engines they go to the one that has it cached. `sampling`:
    for this request, instead of the sampler's own (None). `logprobs`: False where a sampler that was opened with
    log-probs may leave them out.
    """

    prompt_ids: list[int]
    seed: int
    max_tokens: int
    group: Hashable = None
    sampling: SamplingConfig | None = None
    logprobs: bool = True


@dataclass(frozen=True)
class Sample:
    """`token_ids` include the end-of-turn token exactly if `finish_reason` is "stop". "interrupted": the beginning
    of a sample that `InterruptibleSampler.interrupt` stopped.

    `logprobs`: of each sampled token under the model itself (temperature 1, no top-p), in nats; None if the
    sampler was opened without them, or the request does without.
    """

    token_ids: list[int]
    finish_reason: Literal["stop", "length", "interrupted"]
    logprobs: list[float] | None


class Sampler(Protocol):
    def submit(self, key: Hashable, request: SampleRequest) -> None:
        """Queue a request; `poll` returns its sample together with `key`."""
        ...

    def poll(self) -> Iterable[tuple[Hashable, Sample]]:
        """Work for a while and return the samples that finished; empty if nothing is queued."""
        ...

    @property
    def pending(self) -> int:
        """Number of requests submitted and not yet returned by `poll`."""
        ...

    def close(self) -> None:
        """Release the engine; requests still pending are dropped."""
        ...


class InterruptibleSampler(Sampler, Protocol):
    """A sampler that can be stopped while requests are under way, and says what it measured."""

    def poll(self, enough: int | None = None) -> Iterable[tuple[Hashable, Sample]]:
        """As `Sampler.poll`, the first to finish first; returns at the latest when `enough` samples have finished,
        together with those that finish at the same time."""
        ...

    def interrupt(self) -> list[tuple[Hashable, Sample]]:
        """Drop every pending request; what was sampled of each so far, which may be nothing."""
        ...

    def metrics(self) -> dict[str, float]:
        """What the engine measured since it was last given weights, by the names of srt/contract/metrics.py."""
        ...


class WeightSyncedSampler(InterruptibleSampler, Protocol):
    """A sampler of a model in training: it samples from the weights that it was last given."""

    def update_weights(self, weights: Iterable[tuple[str, "Tensor"]]) -> None:
        """Sample from these weights from now on (Hugging Face names, any dtype); wakes a sleeping sampler."""
        ...

    def sleep(self) -> None:
        """Free the GPU memory until `update_weights`."""
        ...


class LazySampler:
    """Starts the real sampler on the first request, so a run that has nothing left to sample starts none.

    `engines`: the number of copies of the model that the real sampler runs. `start_seconds`: what its start took.
    """

    def __init__(self, start: Callable[[], Sampler], engines: int = 1):
        self.engines = engines
        self.start_seconds = 0.0
        self._start = start
        self._sampler: Sampler | None = None

    def submit(self, key: Hashable, request: SampleRequest) -> None:
        if self._sampler is None:
            started = time.monotonic()
            self._sampler = self._start()
            self.start_seconds = time.monotonic() - started
        self._sampler.submit(key, request)

    def poll(self) -> Iterable[tuple[Hashable, Sample]]:
        return self._sampler.poll() if self._sampler else ()

    @property
    def pending(self) -> int:
        return self._sampler.pending if self._sampler else 0

    def close(self) -> None:
        if self._sampler:
            self._sampler.close()


def sample_all(sampler: Sampler, requests: list[SampleRequest], what: str = "sampling") -> list[Sample]:
    """All samples, in the order of the requests. `what`: the name of this work where it takes long enough to be
    reported on."""
    for index, request in enumerate(requests):
        sampler.submit(index, request)
    samples: dict[Hashable, Sample] = {}
    with heartbeat(what, lambda: f"{len(samples):,} of {len(requests):,} responses"):
        while len(samples) < len(requests):
            samples.update(sampler.poll())
    return [samples[index] for index in range(len(requests))]
