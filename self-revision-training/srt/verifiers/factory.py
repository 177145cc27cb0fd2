"""Opens the verifier that a run's knobs ask for, and checks that it works on this machine."""

from typing import Any

from srt.config_groups import GradingConfig
from srt.verifiers.types import Grader


def open_grader(config: GradingConfig) -> Grader:
    """The verifier of the knobs' mode, a context manager.

    Raises UserError when programs cannot be judged on this machine.
    """
    if config.mode == "code":
        from srt.verifiers.code.grader import CodeGrader

        return CodeGrader(config.grading_workers, judge_config(config))
    from srt.verifiers.math.grader import MathGrader

    return MathGrader(config.grading_workers, config.grading_time_limit)


def check_verifier(config: GradingConfig) -> None:
    """Raises UserError when the verifier of the knobs' mode does not work here, before anything else starts."""
    if config.mode == "code":
        from srt.verifiers.code.grader import check_sandbox

        check_sandbox(judge_config(config))


def judge_config(config: GradingConfig) -> Any:
    """The knobs CODE_* as srt.verifiers.code.judge.JudgeConfig."""
    from srt.verifiers.code.judge import JudgeConfig

    return JudgeConfig(
        config.code_sandbox, config.code_time_limit, config.code_memory_limit, config.code_time_factor
    )
