"""The config of run_srt_data.sh. Imports no torch, so that splitting the data starts at once."""

from dataclasses import dataclass

from srt.common.errors import UserError
from srt.config import option, seed_option
from srt.config_groups import (
    HOW_WORK_IS_SPREAD,
    GradingConfig,
    ParallelSamplerConfig,
    PlanConfig,
    ProblemFilterConfig,
    PromptConfig,
    RecipeConfig,
    RemoteCodeConfig,
)


@dataclass(frozen=True)
class CollectConfig(
    RecipeConfig,
    PromptConfig,
    ParallelSamplerConfig,
    GradingConfig,
    ProblemFilterConfig,
    RemoteCodeConfig,
    PlanConfig,
):
    """See configs/srt_data.yaml for the meaning and default of each option."""

    model_path: str = option(path=True)
    dataset: str | None = option(path=True)
    dataset_subset: str | None = option()
    dataset_split: str = option()
    start_index: int = option(ge=0)
    end_index: int | None = option(ge=1)
    max_samples: int | None = option(ge=1)
    target_revision_samples: int = option(ge=1)
    right_share: float | None = option(ge=0, le=1)
    num_responses: int = option(ge=1)
    num_revisions: int = option(ge=1)
    revise_correct: bool = option()
    revise_truncated: bool = option()
    clean: bool = option()
    seed: int = seed_option()
    stage1_size: int = option(ge=1)
    stage2_size: int = option(ge=1)
    data_prefix: str | None = option()
    output_dir: str | None = option(path=True)
    train_data_dir: str | None = option(path=True)


# What is chosen among the logged samples. run.json has the values of the last call in its results; its config is
# that of the first.
CHOOSES_TUPLES = ("target_revision_samples", "right_share", "clean")
# These, where output goes, how the work is spread, and how the tuples are split.
MAY_CHANGE = (
    "recipe",
    "trust_remote_code",
    *CHOOSES_TUPLES,
    *HOW_WORK_IS_SPREAD,
    "dtype",
    "plan_for",
    "stage1_size",
    "stage2_size",
    "train_data_dir",
)


def check(config: CollectConfig) -> None:
    """Raises UserError when RIGHT_SHARE asks for revisions of right responses, which are not sampled."""
    if config.right_share and not config.revise_correct:
        raise UserError(
            f"RIGHT_SHARE={config.right_share:g} asks for tuples after right responses, and REVISE_CORRECT=0 does "
            "not revise those; set REVISE_CORRECT=1"
        )
