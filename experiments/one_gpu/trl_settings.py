"""The settings of a rival that TRL trains (trl_baselines.py), without loading TRL."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from srt.common.errors import UserError

SETTINGS_FILE = "settings.json"
GENERATIONS = {"grpo": 8, "sdft": 1}  # responses to a problem of a step
RATES = {"sft": 5e-6, "grpo": 1e-6, "sdft": 2e-6}
KINDS = tuple(RATES)
PROBLEMS = {"grpo": 32, "sdft": 64}  # in a step


@dataclass(frozen=True)
class TrlSettings:
    """`lr` and `problems_per_step`: 0 for the kind's own. `sampler`: vllm (on the same GPU) or transformers."""

    kind: str
    data: Path
    model: str
    output: Path
    steps: int = 0  # optimizer steps (not of sft)
    lr: float = 0.0
    epochs: int = 3  # of sft, as in sft.sh
    tuples_per_update: int = 4  # of sft, as in sft.sh
    problems_per_step: int = 0
    micro_batch: int = 8  # responses in a forward pass (not of sft)
    max_tokens: int = 1024  # of a response, as in collection and evaluation
    prompt_suffix: str | None = None
    sampler: str = "vllm"
    seed: int = 0

    @property
    def samples_per_step(self) -> int:
        return self.problems_per_step * GENERATIONS.get(self.kind, 0)

    def as_dict(self) -> dict[str, Any]:
        """With the samples of a step, without the paths of this machine."""
        places = ("data", "model", "output")
        kept = {name: value for name, value in asdict(self).items() if name not in places}
        return kept | {"samples_per_step": self.samples_per_step}

    def completed(self) -> "TrlSettings":
        """With the kind's own rate and problems where none are given.

        Raises UserError for steps that TRL would not make as they are given: without any, it makes three epochs,
        and a step that micro-batches do not divide gets smaller.
        """
        if self.kind not in KINDS:
            raise UserError(f"kind={self.kind}: expected one of {', '.join(KINDS)}")
        problems = self.problems_per_step or PROBLEMS.get(self.kind, 0)
        done = replace(self, lr=self.lr or RATES[self.kind], problems_per_step=problems)
        if self.kind in GENERATIONS and self.steps < 1:
            raise UserError(f"{self.kind} needs STEPS, its number of optimizer steps")
        if done.samples_per_step % self.micro_batch:
            raise UserError(
                f"MICRO_BATCH={self.micro_batch} does not divide the {done.samples_per_step} responses of a step "
                f"({problems} problems, {GENERATIONS[self.kind]} each)"
            )
        return done
