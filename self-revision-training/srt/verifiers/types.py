"""Verdicts. A verifier that fails returns none: it raises VerifierError, and the sample is set aside."""

from collections.abc import Hashable
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from srt.contract.records import Problem


@dataclass(frozen=True)
class Verdict:
    """`extracted`: the final answer exactly as it appears in the response; `reason`: why, in a few words."""

    correct: bool
    extracted: str
    reason: str


class VerifierError(RuntimeError):
    """Our machinery failed: a comparison hung or crashed, the gold answer cannot be parsed, a sandbox did not
    start, the tests themselves broke.

    `kind`: the category of the failure, in a few fixed words; failures are counted by it.
    """

    def __init__(self, reason: str, kind: str = "the verifier broke"):
        super().__init__(reason)
        self.kind = kind


Outcome = Verdict | VerifierError


class Grader(Protocol):
    """Grades responses in the background; a context manager that ends its processes."""

    @property
    def pending(self) -> int:
        """Submitted responses whose outcome `poll` has not returned yet."""
        ...

    def submit(self, key: Hashable, response: str, problem: Problem, finish_reason: str) -> None:
        """Queue a response. One truncated at the token limit ("length") is incorrect without being graded."""

    def poll(self, timeout: float = 0.0) -> list[tuple[Hashable, Outcome]]:
        """All outcomes since the last call; waits up to `timeout` seconds if there is none yet.

        Raises VerifierError when the grading processes keep dying, and UserError when they are mistaken about
        programs known to be right and wrong.
        """
        ...

    def grade_all(self, items: list[tuple[str, Problem, str]]) -> list[Outcome]:
        """The outcomes of (response, problem, finish_reason) items, in order. Cannot be mixed with `submit`."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...
