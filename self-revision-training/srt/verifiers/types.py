"""Verdicts. A verifier that fails gives none: it raises VerifierBroke, and the sample is set aside."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Verdict:
    """`extracted`: the final answer as it stood in the response; `reason`: why, in a few words."""

    correct: bool
    extracted: str
    reason: str


class VerifierBroke(RuntimeError):
    """Our machinery failed: a comparison hung or crashed, or the gold answer cannot be read.

    `kind`: the reason in a few words that are the same for all of its kind, to be counted by.
    """

    def __init__(self, reason: str, kind: str = "the verifier broke"):
        super().__init__(reason)
        self.kind = kind


Outcome = Verdict | VerifierBroke
