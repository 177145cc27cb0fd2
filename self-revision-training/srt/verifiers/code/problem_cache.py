"""Sends a problem to the judging process once, however many responses to it there are: tests may be many
megabytes."""

from collections import OrderedDict
from typing import NamedTuple

from srt.contract.records import Problem

CACHE_BYTES = 256 * 2**20  # of tests that the judging process keeps for later responses; at least one problem's


class Message(NamedTuple):
    """A response on its way. `problem`: None when `key` stands for one that was sent before; `forgotten`: keys."""

    number: int
    response: str
    key: int
    problem: Problem | None
    forgotten: tuple[int, ...]


class ProblemSender:
    """Knows what the receiver knows. Problems are told apart by identity: comparing tests would take as long."""

    def __init__(self, cache_bytes: int = CACHE_BYTES):
        self._cache_bytes = cache_bytes
        self._num_sent = 0
        self._num_bytes = 0
        # Python object id -> (the problem, which keeps the id its own; its key; its size), the least recent first
        self._sent: OrderedDict[int, tuple[Problem, int, int]] = OrderedDict()

    def message(self, number: int, response: str, problem: Problem) -> Message:
        if found := self._sent.get(id(problem)):
            self._sent.move_to_end(id(problem))
            return Message(number, response, found[1], None, ())
        self._num_sent += 1
        size = test_bytes(problem)
        self._sent[id(problem)] = (problem, self._num_sent, size)
        self._num_bytes += size
        forgotten = []
        while self._num_bytes > self._cache_bytes and len(self._sent) > 1:
            _, (_, key, size) = self._sent.popitem(last=False)
            self._num_bytes -= size
            forgotten.append(key)
        return Message(number, response, self._num_sent, problem, tuple(forgotten))


class ProblemReceiver:
    """The other end. What is forgotten lives on in the requests that hold it."""

    def __init__(self) -> None:
        self._problems: dict[int, Problem] = {}

    def problem(self, message: Message) -> Problem:
        for key in message.forgotten:
            del self._problems[key]
        if message.problem is not None:
            self._problems[message.key] = message.problem
        return self._problems[message.key]


def test_bytes(problem: Problem) -> int:
    """About as much as the problem's tests take in memory."""
    return sum(len(text) for test in problem.tests for text in test.values())
