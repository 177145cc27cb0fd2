"""What a sampler is: requests go in at any time, samples come out as they finish."""

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:  # torch is heavy
    from torch import Tensor


@dataclass(frozen=True)
class SamplingConfig:
    """temperature 0 is greedy. `eot_ids`: the tokens that end a response."""

    temperature: float
    top_p: float
    eot_ids: tuple[int, ...]


@dataclass(frozen=True)
class SampleRequest:
    """`seed` fixes the sample's randomness, whatever else is sampled beside it.

    Requests of one `group` begin alike: a sampler with several engines keeps them where that is cached.
    """

    prompt_ids: list[int]
    seed: int
    max_tokens: int
    group: Hashable = None


@dataclass(frozen=True)
class Sample:
    """`token_ids` hold the end-of-turn token exactly when `finish_reason` is "stop".

    `logprobs`: of each sampled token under the model itself (temperature 1, no top-p), nats; None from a
    sampler that was opened without them.
    """

    token_ids: list[int]
    finish_reason: Literal["stop", "length"]
    logprobs: list[float] | None


class Sampler(Protocol):
    def submit(self, key: Hashable, request: SampleRequest) -> None:
        """Queue a request; `key` comes back with its sample."""

    def poll(self) -> Iterable[tuple[Hashable, Sample]]:
        """Work for a while and hand out what finished; empty when nothing is queued."""

    @property
    def pending(self) -> int:
        """Requests submitted and not yet handed out."""

    def close(self) -> None: ...


class WeightSyncedSampler(Sampler, Protocol):
    """A sampler of a model in training: it draws from the weights that it was last given."""

    def update_weights(self, weights: Iterable[tuple[str, "Tensor"]]) -> None:
        """Sample from these weights from now on (Hugging Face names, any dtype); wakes a sampler that sleeps."""

    def sleep(self) -> None:
        """Give the GPU's memory back until `update_weights`."""


class LazySampler:
    """Starts the sampler it stands for with the first request: a run whose samples are all there starts none.

    `engines`: how many copies of the model that sampler will run.
    """

    def __init__(self, start: Callable[[], Sampler], engines: int = 1):
        self.engines = engines
        self._start = start
        self._sampler: Sampler | None = None

    def submit(self, key: Hashable, request: SampleRequest) -> None:
        if self._sampler is None:
            self._sampler = self._start()
        self._sampler.submit(key, request)

    def poll(self) -> Iterable[tuple[Hashable, Sample]]:
        return self._sampler.poll() if self._sampler else ()

    @property
    def pending(self) -> int:
        return self._sampler.pending if self._sampler else 0

    def close(self) -> None:
        if self._sampler:
            self._sampler.close()


def sample_all(sampler: Sampler, requests: list[SampleRequest]) -> list[Sample]:
    """All samples, in the order of the requests."""
    for index, request in enumerate(requests):
        sampler.submit(index, request)
    samples: dict[Hashable, Sample] = {}
    while len(samples) < len(requests):
        samples.update(sampler.poll())
    return [samples[index] for index in range(len(requests))]
