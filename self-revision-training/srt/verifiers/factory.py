"""Opens the verifier that a run's knobs ask for, and checks that it works on this machine."""

from typing import Any


def open_grader(knobs: Any) -> Any:
    """The verifier of the knobs' mode, a context manager: a CodeGrader for code, else a Grader.

    `knobs` has the fields of the section "Grading" in configs/srt_data.yaml, and `mode`. Raises UserError when
    programs cannot be judged on this machine.
    """
    if knobs.mode == "code":
        from srt.verifiers.code.grader import CodeGrader

        return CodeGrader(knobs.grading_workers, code_settings(knobs))
    from srt.verifiers.math.grader import Grader

    return Grader(knobs.grading_workers, knobs.grading_time_limit)


def check_verifier(knobs: Any) -> None:
    """Raises UserError when the verifier of the knobs' mode does not work here, before anything else starts."""
    if knobs.mode == "code":
        from srt.verifiers.code.grader import check_sandbox

        check_sandbox(code_settings(knobs))


def code_settings(knobs: Any) -> Any:
    """The knobs CODE_* as srt.verifiers.code.judge.CodeSettings."""
    from srt.verifiers.code.judge import CodeSettings

    return CodeSettings(
        knobs.code_sandbox, knobs.code_time_limit, knobs.code_memory_limit, knobs.code_time_factor
    )
