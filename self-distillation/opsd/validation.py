"""Validation: avg@k on held-out problems, accuracy when asked to revise, and the best student so far."""

import os
import shutil
from pathlib import Path
from typing import Any

from opsd.config import DistillConfig
from opsd.local.checkpoint import Saved
from opsd.metrics import open_step_log, rollout_metrics
from opsd.rollouts import RolloutWorker
from srt.problems import ProblemSet


class Validation:
    """validation.jsonl, a line for each time; `step` in it is the last finished one, -1 before the first.

    With STOP_ON_COLLAPSE, best/step_<finished steps>/ holds the student with the highest avg@k.
    """

    def __init__(self, config: DistillConfig, problems: ProblemSet, output_dir: Path, first_step: int):
        self.problems = problems.problems
        self.samples = config.val_num_samples
        self.period = config.val_period
        self.revise = config.val_revise
        self.margin = config.stop_on_collapse
        self.folder = output_dir / "best"
        self.log = open_step_log(output_dir / "validation.jsonl", first_step)
        self.lines = self.log.entries

    def due(self, finished_steps: int, total_steps: int) -> bool:
        done = bool(self.lines) and self.lines[-1]["step"] == finished_steps - 1  # by a run that was killed since
        return not done and (finished_steps % self.period == 0 or finished_steps == total_steps)

    def run(self, finished_steps: int, rollouts: RolloutWorker, student: Saved) -> dict[str, Any]:
        """The figures of `student` as it is; empty when every sample was set aside."""
        step, seconds = finished_steps - 1, {}
        repeated = [problem for problem in self.problems for _ in range(self.samples)]
        responses = rollouts.sample(repeated, "validation", step, seconds)
        if not responses:
            print(f"warning, step {step}: every validation sample was set aside; see {rollouts.set_aside.path}")
            return {}
        figures = rollout_metrics(responses)
        figures = {"avg_at_k": figures.pop("reward")} | figures
        if self.revise:
            for r, rewards in rollouts.revise(responses, "validation", step, seconds).items():
                figures[f"revise_r{r}"] = sum(rewards) / len(rewards) if rewards else None
                figures[f"revisions_r{r}"] = len(rewards)
        if self.margin and all(figures["avg_at_k"] > line["avg_at_k"] for line in self.lines):
            self._keep(student, finished_steps)  # before the line that names it
        self.lines.append({"step": step, **figures})
        self.log.append(self.lines[-1])
        return figures

    @property
    def best(self) -> dict[str, Any]:
        """The first line with the highest avg@k."""
        return max(self.lines, key=lambda line: line["avg_at_k"])

    @property
    def best_student(self) -> Path | None:
        """What `Student.save` wrote of the best one; None where none is kept."""
        return self._place(self.best["step"] + 1) if self.margin and self.lines else None

    @property
    def collapsed(self) -> bool:
        """The newest avg@k is more than STOP_ON_COLLAPSE below the best one."""
        if not self.margin or not self.lines:
            return False
        return self.lines[-1]["avg_at_k"] < self.best["avg_at_k"] - self.margin

    def forget_others(self) -> None:
        """Delete students that were best once. After a checkpoint: until then a resumed run may need them."""
        for folder in self.folder.glob("*"):
            if folder != self.best_student:
                shutil.rmtree(folder)

    def close(self) -> None:
        self.log.close()

    def _place(self, finished_steps: int) -> Path:
        return self.folder / f"step_{finished_steps:06d}"

    def _keep(self, student: Saved, finished_steps: int) -> None:
        place = self._place(finished_steps)
        temporary = place.with_name(f".{place.name}.tmp")
        for old in (temporary, place):  # of a run that was killed
            shutil.rmtree(old, ignore_errors=True)
        student.save(temporary)
        os.replace(temporary, place)
