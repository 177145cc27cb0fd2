"""The knobs of evaluate.sh, and the models that its arguments name."""

import os
from dataclasses import dataclass
from pathlib import Path

from srt.common.errors import UserError
from srt.config import option, seed_option
from srt.config_groups import (
    HOW_WORK_IS_SPREAD,
    GradingConfig,
    ParallelSamplerConfig,
    ProblemFilterConfig,
    PromptConfig,
    RecipeConfig,
    RemoteCodeConfig,
)

# What REVISE may be: which responses are revised, and after which phrase (revising.py).
ORACLE, ALWAYS, CONFIDENCE, NONE = "oracle", "always", "confidence", "none"
REVISE_SWITCHES = {"1": ORACLE, "true": ORACLE, "0": NONE, "false": NONE}  # its values up to version 0.2

# What LOGPROBS may be: whose log-probs are recorded (collector.py).
LOGPROBS = ("first", "all", "none")
LOGPROBS_SWITCHES = {"1": "all", "true": "all", "0": "none", "false": "none"}  # its values up to version 0.2

# How the work is spread; everything else decides what is sampled.
MAY_CHANGE = (
    "recipe",
    "trust_remote_code",
    *HOW_WORK_IS_SPREAD,
    "dtype",
)


@dataclass(frozen=True)
class EvaluateConfig(
    RecipeConfig, PromptConfig, ParallelSamplerConfig, GradingConfig, ProblemFilterConfig, RemoteCodeConfig
):
    """See configs/evaluate.yaml for the meaning and default of each option."""

    model_path: str | None = option(path=True)
    dataset: str | None = option(path=True)
    dataset_subset: str | None = option()
    dataset_split: str | None = option()
    max_samples: int | None = option(ge=1)
    num_samples: int = option(ge=1)
    greedy: bool = option()
    logprobs: str | None = option(choices=(*LOGPROBS, *LOGPROBS_SWITCHES))
    revise: str = option(choices=(ORACLE, ALWAYS, CONFIDENCE, NONE, *REVISE_SWITCHES))
    revise_share: float = option(ge=0, le=1)
    seed: int = seed_option()
    output_dir: str | None = option(path=True)

    @property
    def revise_mode(self) -> str:
        return REVISE_SWITCHES.get(self.revise, self.revise)

    @property
    def logprobs_of(self) -> str:
        if self.logprobs is None:
            return "all" if self.revise_mode == CONFIDENCE else "first"
        return LOGPROBS_SWITCHES.get(self.logprobs, self.logprobs)

    def check(self) -> None:
        """Raises UserError for knobs that contradict each other."""
        if self.revise_mode == CONFIDENCE and self.logprobs_of != "all":
            raise UserError(
                "REVISE=confidence needs LOGPROBS=all: it revises the responses with the lowest log-probs"
            )


def split_models(argv: list[str]) -> tuple[list[str], list[str]]:
    """The models among the arguments, and the others (key=value)."""
    models = [a for a in argv if not a.startswith("-") and ("=" not in a or Path(a).is_dir())]
    return [m for m in models if m], [a for a in argv if a not in models]


def label_models(models: list[str]) -> dict[str, str]:
    """Label -> model: its name, preceded by as many folders above it as tell the models apart.

    A label is also the name of a folder. Raises UserError when a model is named twice.
    """
    folders = {model: _parts(model) for model in models}
    if repeated := {m for m in models if [folders[n] for n in models].count(folders[m]) > 1}:
        raise UserError(f"{min(repeated)} is named twice; name each model once")
    labels = {}
    for model in models:
        length = 1
        while any(
            other != model and parts[-length:] == folders[model][-length:] for other, parts in folders.items()
        ):
            length += 1
        label = "-".join(part for part in folders[model][-length:] if part != "/")
        if label in labels:  # a-b, and b in a folder a
            raise UserError(f"{labels[label]} and {model} would both be called {label}; rename one, or link to it")
        labels[label] = model
    return labels


def _parts(model: str) -> tuple[str, ...]:
    """Of the path of a folder, where "." says no name and two spellings may be one folder; or of a model id."""
    return Path(os.path.abspath(model) if Path(model).is_dir() else model.rstrip("/")).parts
