"""Validation: avg@k on held-out problems, accuracy when asked to revise, and the best student so far."""

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opsd.engine import Engine
from opsd.metrics import rollout_metrics, validation_metrics
from opsd.run import Run
from opsd.run_log import RunLog
from srt.contract import metrics as names
from srt.contract.metrics import by_reward


@dataclass(frozen=True)
class BestStudent:
    """A student that `Engine.save_student` wrote after `finished_steps` steps."""

    finished_steps: int
    folder: Path


def validation_after(lines: Sequence[Mapping[str, Any]], finished_steps: int) -> Any:
    """The last line of validation.jsonl after that many steps; None if there was no validation then."""
    return next((line for line in reversed(lines) if line["step"] == finished_steps - 1), None)


class Validator:
    """validation.jsonl, a line for each validation; its `step` is the last finished one, -1 before the first.

    With STOP_ON_COLLAPSE, best/step_<finished steps>/ holds the student with the highest avg@k. Without validation
    problems (VAL_PERIOD=0), nothing is ever due.
    """

    def __init__(self, run: Run, engine: Engine, log: RunLog):
        self.config = run.config
        self.total_steps = run.total_steps
        self.problems = run.validation_set.problems if run.validation_set else []
        self.engine = engine
        self.rollout_worker = run.validation_worker(engine.grader, log.set_aside)
        self.log = log
        self.best_folder = run.output_dir / "best"
        self.lines = log.earlier_validations

    @property
    def best_line(self) -> dict[str, Any]:
        """The first line with the highest avg@k."""
        return max(self.lines, key=lambda line: line[names.AVG_AT_K])

    @property
    def best(self) -> BestStudent | None:
        """The best student, where STOP_ON_COLLAPSE keeps one."""
        if not self.config.stop_on_collapse or not self.lines:
            return None
        finished_steps = self.best_line["step"] + 1
        return BestStudent(finished_steps, self._folder_of(finished_steps))

    @property
    def collapsed(self) -> bool:
        """The newest avg@k is more than STOP_ON_COLLAPSE below the best one."""
        margin = self.config.stop_on_collapse
        if not margin or not self.lines:
            return False
        return self.lines[-1][names.AVG_AT_K] < self.best_line[names.AVG_AT_K] - margin

    def run_if_due(self, finished_steps: int) -> dict[str, Any]:
        """The metrics of a validation, with their prefix; empty when none is due or every sample was set aside."""
        if not self._due(finished_steps):
            return {}
        return self.run(finished_steps)

    def run(self, finished_steps: int) -> dict[str, Any]:
        """`run_if_due`, due or not."""
        metrics = self._run(finished_steps)
        return {f"{names.VALIDATION}{name}": value for name, value in metrics.items()}

    def line_after(self, finished_steps: int) -> dict[str, Any] | None:
        """The validation after that many steps; None if there was none."""
        return validation_after(self.lines, finished_steps)

    def discard_former_best(self) -> None:
        """Delete students that are no longer the best. After a checkpoint: until then a resumed run may need
        them."""
        best = self.best
        for folder in self.best_folder.glob("*"):
            if best is None or folder != best.folder:
                shutil.rmtree(folder)

    def _due(self, finished_steps: int) -> bool:
        """Before the first step, after every VAL_PERIOD steps, and at the end; not twice, as after a resume."""
        if not self.problems or self.line_after(finished_steps):
            return False
        return finished_steps % self.config.val_period == 0 or finished_steps == self.total_steps

    def _run(self, finished_steps: int) -> dict[str, Any]:
        step, worker = finished_steps - 1, self.rollout_worker
        repeated = [problem for problem in self.problems for _ in range(self.config.val_num_samples)]
        with self.engine.sampling() as sampler:
            rollouts = worker.sample(sampler, repeated, step, "validation")
            if not rollouts:
                self.log.warn(step, f"every validation sample was set aside; see {worker.set_aside.path}")
                return {}
            metrics: dict[str, Any] = validation_metrics(rollouts)
            if self.config.val_revise:
                for r, revisions in worker.revise(sampler, rollouts, step, "validation").items():
                    revised = rollout_metrics(revisions) if revisions else {}
                    metrics[by_reward(names.REVISE, r)] = revised.get(names.REWARD)
                    metrics[by_reward(names.REVISIONS, r)] = len(revisions)
                    metrics[by_reward(names.REVISIONS_TRUNCATED, r)] = revised.get(names.TRUNCATED)
            is_best = all(metrics[names.AVG_AT_K] > line[names.AVG_AT_K] for line in self.lines)
            if self.config.stop_on_collapse and is_best:
                self._save_student(finished_steps)  # before the line that refers to it
        self._append({"step": step, **metrics})
        return metrics

    def _append(self, line: dict[str, Any]) -> None:
        self.lines.append(line)
        self.log.validation(line)
        if self.collapsed:
            best = self.best_line
            self.log.warn(
                line["step"],
                f"stopping: that is more than STOP_ON_COLLAPSE={self.config.stop_on_collapse} below the "
                f"{best[names.AVG_AT_K]:.1%} after step {best['step'] + 1}, whose student is kept",
            )

    def _save_student(self, finished_steps: int) -> None:
        folder = self._folder_of(finished_steps)
        temporary = folder.with_name(f".{folder.name}.tmp")
        for leftover in (temporary, folder):  # of a run that was killed
            shutil.rmtree(leftover, ignore_errors=True)
        self.engine.save_student(temporary)
        os.replace(temporary, folder)

    def _folder_of(self, finished_steps: int) -> Path:
        return self.best_folder / f"step_{finished_steps:06d}"
