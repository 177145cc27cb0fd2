"""ENGINE=local: one process on one GPU, or none, with torch, transformers and, where it is installed, vLLM."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from opsd.engine import START_STATE, ScoredBatch, UpdateResult, split_into_updates
from opsd.local.checkpoint import newest_checkpoint, read_state, save_checkpoint
from opsd.local.optimizer_step import OptimizerStep
from opsd.local.sampler import open_sampler
from opsd.local.student import Student
from opsd.local.teacher import open_teacher
from opsd.loss_terms import loss_metrics
from opsd.memory import offloads, sampler_share
from opsd.pairs import SequencePair
from opsd.run import Run
from opsd.timing import report_start, span
from srt.common.machine import this_machine
from srt.common.models import stored_dtype
from srt.contract import metrics as names
from srt.sampling.base import WeightSyncedSampler
from srt.verifiers.factory import open_grader
from srt.verifiers.types import Grader


class LocalEngine:
    """See opsd.engine.Engine."""

    def __init__(self, run: Run, grader: Grader | None = None):
        """`grader`: None opens the one of the configuration, which then ends with the engine."""
        config = self.config = run.config
        self.output_dir = run.output_dir
        machine = this_machine()  # before anything is loaded
        share = sampler_share(run, machine)
        checkpoint = newest_checkpoint(run.output_dir)
        state = read_state(checkpoint) if checkpoint else START_STATE
        self.start_step: int = state["step"]
        if checkpoint:
            print(f"continuing after step {self.start_step} from {checkpoint}")
        with contextlib.ExitStack() as resources, report_start():
            self.grader = grader or resources.enter_context(open_grader(config))
            with span("student"):
                self.student = Student(config, checkpoint and checkpoint / "student", run.longest_sequence)
            synced = checkpoint / "teacher" if checkpoint and state["teacher_was_synced"] else None
            offload = offloads(run, machine)
            with span("teacher"):
                self.teacher = open_teacher(config, self.student, synced, offload)
            with span("optimizer"):
                self.optimizer_step = OptimizerStep(
                    config,
                    self.student,
                    self.teacher,
                    run.pad_id,
                    run.total_updates,
                    checkpoint,
                    offload,
                    run.replay,
                )
            with span("sampler"):
                self.sampler = open_sampler(run, self.student, share)
            resources.callback(self.sampler.close)
            self._resources = resources.pop_all()

    @contextlib.contextmanager
    def sampling(self) -> Iterator[WeightSyncedSampler]:
        with span(names.WEIGHT_SYNC):
            self.sampler.update_weights(self.student.named_weights())
        yield self.sampler
        with span(names.WEIGHT_SYNC):
            self.sampler.sleep()

    def update(self, pairs: list[SequencePair]) -> UpdateResult:
        updates = split_into_updates(pairs, self.config.train_global_batch_size)
        results = [self.optimizer_step.run(update) for update in updates]
        scored = [batch for result in results for batch in result.scored]
        terms = {name: sum(r.terms[name] for r in results) / len(results) for name in results[0].terms}
        return UpdateResult(
            scored,
            optimizer={
                names.GRAD_NORM: sum(result.grad_norm for result in results) / len(results),
                names.LR: results[-1].lr,
                **loss_metrics(self.config, scored, **terms),
            },
        )

    def score(self, pairs: list[SequencePair]) -> list[ScoredBatch]:
        return self.optimizer_step.score(pairs)

    def sync_teacher(self) -> None:
        with self.teacher.present():
            self.teacher.copy_from(self.student)

    def save_checkpoint(self, step: int) -> None:
        with self.teacher.present(), self.optimizer_step.moments.present():
            save_checkpoint(
                self.output_dir,
                step,
                self.student,
                self.teacher if self.teacher.was_synced else None,
                self.optimizer_step.optimizer,
                self.optimizer_step.scheduler,
                self.config.keep_checkpoints,
            )

    def save_student(self, folder: Path) -> None:
        self.student.save(folder)

    def export(self, folder: Path, saved: Path | None = None) -> None:
        if saved:
            self.student.load(saved)
        self.student.export(folder, stored_dtype(self.config.student_model))

    def close(self) -> None:
        self._resources.close()
