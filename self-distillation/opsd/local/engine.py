"""Phase 2 on one machine: on-policy self-distillation (arXiv:2604.12002, section 2.2) with torch alone.

L(theta) = E_x E_{y ~ pi_theta(. | x)} sum_t KL( pi_theta(. | x, y_<t) || pi_SRT(. | x, y, P_r, y_<t) )
"""

import contextlib
import time
from typing import Any

from opsd.config import kl_config
from opsd.export import export_student
from opsd.local.checkpoint import newest_checkpoint, read_state, save_checkpoint
from opsd.local.optimizer_step import PairWithKL, Updates
from opsd.local.student import Student
from opsd.local.teacher import open_teacher
from opsd.metrics import StepMetrics
from opsd.rollouts import RolloutWorker, on_policy
from opsd.run import LOGGED_SAMPLES, Engine
from srt.common.console import print_summary, progress
from srt.common.models import stored_dtype
from srt.sampling.base import Sampler, SamplingConfig
from srt.sampling.from_config import choose_backend, open_sampler
from srt.sampling.transformers import TransformersSampler
from srt.verifiers.factory import open_grader
from srt.verifiers.types import Grader


class LocalEngine(Engine):
    """One run in `output_dir`; `run()` starts it or continues it after the newest checkpoint."""

    def run(self) -> None:
        if not self._claim_folder():
            return
        with open_grader(self.config) as grader:
            self._open(grader)
            with progress(self.total_steps, "step", initial=self.finished_steps) as bar:
                self._validate(bar)
                while self.finished_steps < self.total_steps and not self._collapsed():
                    figures = self._step(self.finished_steps)
                    self.finished_steps += 1
                    self._synchronise_teacher()
                    figures |= self._validate(bar)
                    self.reports.step(self.finished_steps - 1, figures, bar)
                    self._checkpoint()
        self._finish()

    # The algorithm --------------------------------------------------------------------------------------

    def _step(self, step: int) -> dict[str, Any]:
        """Sample, grade, build both rows, score, update."""
        seconds: dict[str, float] = {}
        problems = [self.train.problems[index] for index in self.order.step(step)]
        with self._awake(seconds):
            rollouts = self.rollouts.sample(problems, "train", step, seconds)
        pairs = self._pairs(step, problems, rollouts)
        metrics, grad_norms = StepMetrics(), []
        scored: list[PairWithKL] = []
        size = self.config.train_global_batch_size
        for start in range(0, len(pairs), size):
            grad_norm, scored_pairs = self.updates.update(pairs[start : start + size], metrics, seconds)
            grad_norms.append(grad_norm)
            scored += scored_pairs
        # Those of the first problems; the first of `scored` would always be the shortest of the step.
        first = pairs[:LOGGED_SAMPLES]
        self.reports.responses(step, [one for one in scored if any(one.pair is pair for pair in first)])
        of_update = {"grad_norm": sum(grad_norms) / len(grad_norms), "lr": self.updates.lr}
        return self._figures(problems, rollouts, pairs, metrics, of_update, seconds)

    def _awake(self, seconds: dict[str, float]) -> contextlib.AbstractContextManager:
        return on_policy(self.sampler, self.student, seconds)

    def _validated(self) -> Student:
        return self.student

    def sync_teacher(self) -> None:
        self.teacher.become(self.student)

    # Start and end ----------------------------------------------------------------------------------------

    def _open(self, grader: Grader) -> None:
        """Fresh start, or everything as the newest checkpoint left it."""
        config = self.config
        self._set_limits()
        checkpoint = newest_checkpoint(self.output_dir)
        state = read_state(checkpoint) if checkpoint else {"step": 0, "teacher_was_synced": False}
        self.finished_steps = state["step"]
        if checkpoint:
            print(f"continuing after step {self.finished_steps} from {checkpoint}")

        self.student = Student(config, checkpoint and checkpoint / "student")
        self.teacher = open_teacher(
            config, self.student, checkpoint / "teacher" if state["teacher_was_synced"] else None
        )
        self.updates = Updates(
            config,
            kl_config(config),
            self.student,
            self.teacher,
            self.pad_id,
            self.total_updates,
            checkpoint,
        )

        self._open_logs()
        self.sampler = self._open_sampler()
        self.rollouts = RolloutWorker(
            self.layout,
            self.sampler,
            grader,
            self.max_total_tokens,
            self.max_revision_tokens,
            config.seed,
            self.set_aside,
        )
        self.started = time.monotonic()

    def _open_sampler(self) -> Sampler:
        config = self.config
        sampling = SamplingConfig(config.temperature, config.top_p, tuple(self.layout.eot_ids))
        if choose_backend(config.sampler) == "transformers":
            return TransformersSampler(self.student.model, self.pad_id, sampling, config.sampler_batch)
        return open_sampler(
            "vllm",
            config.student_model,
            sampling,
            max_model_len=self.max_model_len,
            max_batch=config.sampler_batch,
            memory_utilization=config.gpu_memory_utilization,
            can_sleep=True,
        )

    def _save_checkpoint(self) -> None:
        save_checkpoint(
            self.output_dir,
            self.finished_steps,
            self.student,
            self.teacher if self.teacher.was_synced else None,
            self.updates.optimizer,
            self.updates.scheduler,
            self.config.keep_checkpoints,
        )

    def _finish(self) -> None:
        """Write the last student, or with STOP_ON_COLLAPSE the best one, in the SRT model's precision."""
        for opened in (self.sampler, self.reports, self.set_aside):
            opened.close()
        results = {
            "steps": self.finished_steps,
            "seconds": round(time.monotonic() - self.started, 1),
            "student": str(self.output_dir / "student"),
        }
        student = self.student
        if self.validation:
            self.validation.close()
            if best := self.validation.best_student:
                del self.updates  # the optimizer's memory
                student = Student(self.config, best)
                results["student_of_step"] = self.validation.best["step"] + 1
        export_student(
            self.output_dir,
            lambda folder: student.write_model(folder, stored_dtype(self.config.student_model)),
            self.config,
            self.layout,
            self.train.fingerprint,
            results,
        )
        print_summary("Self-distillation", results | {"metrics": self.output_dir / "metrics.jsonl"})
