"""A run's folder: what it is, its logs, and what people see of its steps; the same for every engine."""

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from opsd.health import Health
from opsd.metrics import MetricsLog, open_step_log
from opsd.rows import Pair
from opsd.settings import NOT_IDENTITY, DistillKnobs
from srt.console import print_summary
from srt.layout import Layout
from srt.problems import ProblemSet
from srt.provenance import (
    CHECKPOINT_METADATA,
    close_run,
    model_fingerprint,
    open_run,
    read_metadata,
    write_metadata,
)

LOGGED_SAMPLES = 4  # responses of a step that go into samples.jsonl


class Journal:
    """`claim()` first, then `open(first_step)`, then a `report` for every step."""

    def __init__(self, knobs: DistillKnobs, layout: Layout, train: ProblemSet, output_dir: Path):
        self.knobs = knobs
        self.layout = layout
        self.train = train
        self.output_dir = output_dir

    def claim(self) -> bool:
        """True when the run in the folder is complete.

        Raises UserError when the folder holds a run with other settings.
        """
        knobs = self.knobs
        identity = {k: v for k, v in asdict(knobs).items() if k not in NOT_IDENTITY} | {
            "student_fingerprint": model_fingerprint(knobs.student_model),
            "teacher_fingerprint": model_fingerprint(knobs.teacher_model),
            "dataset_fingerprint": self.train.fingerprint,
            "control_phrases": self.layout.phrases.as_dict(),
            "prompt": self.layout.prompt.as_dict(),
        }
        open_run(self.output_dir, identity, asdict(knobs))
        complete = (self.output_dir / "student" / CHECKPOINT_METADATA).is_file()
        if complete:
            print(f"self-distillation is complete: {self.output_dir / 'student'}")
        return complete

    def open(self, first_step: int) -> None:
        """The logs, without the lines of steps that are done again."""
        self.metrics = MetricsLog(self.output_dir, first_step, self.knobs.report_to)
        self.samples = open_step_log(self.output_dir / "samples.jsonl", first_step)
        self.set_aside = open_step_log(self.output_dir / "set_aside.jsonl", first_step)
        self.health = Health()
        for figures in self.metrics.earlier:
            self.health.check(figures)  # its warnings were given then

    def report(self, step: int, figures: dict[str, Any], total_steps: int, bar: Any) -> None:
        """One line in metrics.jsonl, one on the console, and what is worth a warning."""
        self.metrics.write(step, figures)
        bar.update(1)
        bar.write(step_line(step + 1, total_steps, figures))
        if "val_avg_at_k" in figures:
            bar.write(
                f"step {step + 1}: validation avg@{self.knobs.val_num_samples} {figures['val_avg_at_k']:.1%}, "
                f"{figures['val_response_tokens']:.0f} tokens"
            )
        for warning in self.health.check(figures):
            bar.write(f"warning, step {step}: {warning}")

    def log_samples(self, step: int, pairs: list[Pair], token_kl: dict[int, list[float]]) -> None:
        """The step's first pairs with the KL of each of their tokens; `token_kl`: by id(pair)."""
        if step % self.knobs.log_samples_period:
            return
        for pair in pairs[:LOGGED_SAMPLES]:
            self.samples.append(
                {
                    "step": step,
                    "id": pair.rollout.problem.id,
                    "x": pair.rollout.problem.x,
                    "r": pair.rollout.r,
                    "p_r": self.layout.phrases.text(pair.rollout.r),
                    "tokens": [self.layout.tokenizer.decode([token]) for token in pair.targets],
                    "kl": [round(value, 5) for value in token_kl[id(pair)]],
                }
            )

    def describe_student(self, folder: Path) -> None:
        """Beside the weights in `folder`: the tokenizer, and what the student was made with."""
        knobs = self.knobs
        base = (read_metadata(knobs.student_model) or {}).get("base_model", knobs.student_model)
        self.layout.tokenizer.save_pretrained(folder)
        write_metadata(
            folder,
            {
                "base_model": base,
                "srt_model": knobs.student_model,
                "mode": knobs.mode,
                "stage": "sd_zero",
                "control_phrases": self.layout.phrases.as_dict(),
                "prompt": self.layout.prompt.as_dict(),
                "data_fingerprint": self.train.fingerprint,
            },
        )

    def close(self, result: dict[str, Any]) -> None:
        self.metrics.close()
        self.samples.close()
        self.set_aside.close()
        close_run(self.output_dir, result)
        print_summary("Self-distillation", result | {"metrics": self.output_dir / "metrics.jsonl"})


def step_line(number: int, total: int, figures: dict[str, Any]) -> str:
    """step 12/80: reward 61.3%, KL 0.0521 (r0 0.0931, r1 0.0214), 812 tokens, 14.2 s (rollouts 45%, ...)"""
    kl_r0, kl_r1 = (figures.get(name, math.nan) for name in ("kl_r0", "kl_r1"))
    seconds = figures["seconds"]
    total_seconds = sum(seconds.values()) or 1.0
    shares = ", ".join(f"{name} {value / total_seconds:.0%}" for name, value in seconds.items())
    return (
        f"step {number}/{total}: reward {figures['reward']:.1%}, KL {figures['kl']:.4f} (r0 {kl_r0:.4f}, "
        f"r1 {kl_r1:.4f}), {figures['response_tokens']:.0f} tokens, {total_seconds:.1f} s ({shares})"
    )
