"""Verifiers: response -> Verdict. Breaking is no verdict: it is a VerifierBroke, the sample is set aside."""

from dataclasses import dataclass
from typing import Any


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


def open_grader(knobs: Any) -> Any:
    """The verifier of the knobs' mode, a context manager: a CodeGrader for code, else a Grader.

    `knobs` has the fields of the section "Grading" in configs/srt_data.yaml, and `mode`. Raises UserError when
    programs cannot be judged on this machine.
    """
    if knobs.mode == "code":
        from srt.verifiers.code_grader import CodeGrader

        return CodeGrader(knobs.grading_workers, code_settings(knobs))
    from srt.verifiers.pool import Grader

    return Grader(knobs.grading_workers, knobs.grading_time_limit)


def check_verifier(knobs: Any) -> None:
    """Raises UserError when the verifier of the knobs' mode does not work here, before anything else starts."""
    if knobs.mode == "code":
        from srt.verifiers.code_grader import check_sandbox

        check_sandbox(code_settings(knobs))


def code_settings(knobs: Any) -> Any:
    """The knobs CODE_* as srt.verifiers.code.CodeSettings."""
    from srt.verifiers.code import CodeSettings

    return CodeSettings(
        knobs.code_sandbox, knobs.code_time_limit, knobs.code_memory_limit, knobs.code_time_factor
    )
