"""What an engine's worker does in one call of the driver."""

import pytest

from opsd.nemo_rl.worker.sampling import SamplingWorker
from srt.sampling.base import Sample, SampleRequest


class Scripted:
    """A sampler in which a request ends after `max_tokens` polls."""

    def __init__(self):
        self.left, self.polls, self.asked = {}, 0, []

    @property
    def pending(self):
        return len(self.left)

    def submit(self, key, request):
        self.left[key] = request.max_tokens

    def poll(self, enough=None):
        self.polls += 1
        self.asked.append(enough)
        self.left = {key: left - 1 for key, left in self.left.items()}
        ended = [key for key, left in self.left.items() if not left]
        for key in ended:
            del self.left[key]
        return [(key, Sample([1], "stop", [0.0])) for key in ended]


@pytest.fixture
def worker():
    worker = SamplingWorker()
    worker.sampler = Scripted()
    return worker


def requests(*lengths):
    return [(length, SampleRequest([1], 0, length)) for length in lengths]


def test_a_call_ends_with_its_last_sample(worker):
    assert [key for key, _ in worker.sample(requests(1, 3, 5), seconds=3600.0)] == [1, 3, 5]
    assert worker.sampler.polls == 5 and worker.sample([], seconds=3600.0) == []


def test_a_call_ends_when_enough_samples_have_finished(worker):
    assert [key for key, _ in worker.sample(requests(1, 2, 7), seconds=3600.0, enough=2)] == [1, 2]
    assert worker.sampler.asked == [2, 1] and worker.sampler.pending == 1


def test_a_call_ends_after_its_time_and_the_next_one_goes_on(worker):
    assert worker.sample(requests(2), seconds=0.0) == []
    assert worker.sampler.polls == 1
    assert [key for key, _ in worker.sample(requests(4), seconds=0.0)] == [2]
    assert worker.sampler.pending == 1
