"""What the graders of both modes share: truncated responses, `grade_all`, and child processes that die with us."""

import os
import signal
import sys
from abc import ABC, abstractmethod
from collections.abc import Hashable
from types import TracebackType
from typing import Self

from srt.common.parent_death import die_with_parent
from srt.contract.records import Problem
from srt.verifiers.types import Outcome, Verdict

TRUNCATED = Verdict(False, "", "cut off by the token limit")


class BackgroundGrader(ABC):
    """A srt.verifiers.types.Grader whose subclass sends responses to its processes and collects their outcomes."""

    def __init__(self) -> None:
        self._ready: list[tuple[Hashable, Outcome]] = []  # outcomes that needed no grading

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @abstractmethod
    def close(self) -> None:
        """End the grading processes; responses still being graded are dropped."""

    @property
    def pending(self) -> int:
        """Submitted responses whose outcome `poll` has not returned yet."""
        return self._num_in_flight() + len(self._ready)

    def submit(self, key: Hashable, response: str, problem: Problem, finish_reason: str) -> None:
        """Queue a response. One truncated at the token limit ("length") is incorrect without being graded."""
        if finish_reason == "length":
            self._ready.append((key, TRUNCATED))
        else:
            self._send(key, response, problem)

    def poll(self, timeout: float = 0.0) -> list[tuple[Hashable, Outcome]]:
        """All outcomes since the last call; waits up to `timeout` seconds if there is none yet.

        Raises VerifierError when the grading processes keep dying, and UserError when they are mistaken about
        programs known to be right and wrong.
        """
        collected = self._collect(0.0 if self._ready else timeout)
        outcomes, self._ready = self._ready + collected, []
        return outcomes

    def grade_all(self, items: list[tuple[str, Problem, str]]) -> list[Outcome]:
        """The outcomes of (response, problem, finish_reason) items, in order.

        Raises ValueError when submitted responses have not been polled: it would return their outcomes, too.
        """
        if self.pending:
            raise ValueError(f"grade_all: {self.pending} submitted responses have not been polled yet")
        for index, (response, problem, finish_reason) in enumerate(items):
            self.submit(index, response, problem, finish_reason)
        outcomes: dict[Hashable, Outcome] = {}
        while self.pending:
            outcomes.update(self.poll(timeout=1.0))
        return [outcomes[index] for index in range(len(items))]

    @abstractmethod
    def _num_in_flight(self) -> int:
        """Responses sent whose outcome has not been collected."""

    @abstractmethod
    def _send(self, key: Hashable, response: str, problem: Problem) -> None:
        """Pass a response on to the grading processes without waiting for them."""

    @abstractmethod
    def _collect(self, timeout: float) -> list[tuple[Hashable, Outcome]]:
        """The outcomes that have arrived; waits up to `timeout` seconds for the first."""


def tie_to_parent(parent_pid: int) -> None:
    """Called first in a grading process: Ctrl-C is left to the parent, and (Linux) the parent's death ends us."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent()
    if sys.platform == "linux" and os.getppid() != parent_pid:  # it died before the line above
        os._exit(1)
