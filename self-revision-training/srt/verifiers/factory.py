"""Opens the verifier that a run is configured for, and checks that it works on this machine.

The verifiers are imported only when they are used: math-verify takes a second to import.
"""

from typing import TYPE_CHECKING

from srt.config_groups import GradingConfig
from srt.verifiers.types import Grader

if TYPE_CHECKING:
    from srt.verifiers.code.judge import JudgeConfig


def open_grader(config: GradingConfig) -> Grader:
    """The grader for `config.mode`, a context manager.

    Raises UserError when programs cannot be judged on this machine.
    """
    if config.mode == "code":
        from srt.verifiers.code.grader import CodeGrader

        return CodeGrader(config.grading_workers, judge_config(config))
    from srt.verifiers.math.grader import MathGrader

    return MathGrader(config.grading_workers, config.grading_time_limit)


def check_verifier(config: GradingConfig) -> None:
    """Call it before expensive work: it says what the sandbox of MODE=code guarantees on this machine.

    Raises UserError when the verifier for `config.mode` does not work here.
    """
    if config.mode == "code":
        from srt.verifiers.code.judge import open_sandbox

        print(open_sandbox(judge_config(config)).guarantees())


def judge_config(config: GradingConfig) -> "JudgeConfig":
    """The judge's part of the grading config (the knobs CODE_*)."""
    from srt.verifiers.code.judge import JudgeConfig

    return JudgeConfig(
        config.code_sandbox, config.code_time_limit, config.code_memory_limit, config.code_time_factor
    )
