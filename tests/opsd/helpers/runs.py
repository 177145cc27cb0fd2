"""Runs of the local engine, step by step and as a whole."""

from contextlib import closing
from dataclasses import dataclass
from typing import Any

from opsd.local.engine import LocalEngine
from opsd.metrics import StepOutput
from opsd.response_queue import ResponseQueue
from opsd.rollouts import RolloutWorker
from opsd.run import Run
from opsd.train import train, train_step
from srt.verifiers.types import Grader


@dataclass
class OpenRun:
    """A run whose engine is open, for single steps."""

    run: Run
    engine: LocalEngine
    responses: ResponseQueue

    @property
    def rollout_worker(self) -> RolloutWorker:
        return self.responses.worker

    def output(self, step: int) -> StepOutput:
        return train_step(self.run, self.engine, self.responses, step)

    def step(self, step: int) -> dict[str, Any]:
        """The metrics of a step, after which the teacher is synced where that is due."""
        metrics = self.output(step).metrics()
        if self.run.teacher_sync_due(step + 1):
            self.engine.sync_teacher()
        return metrics


def train_run(run: Run, grader: Grader) -> LocalEngine:
    """The whole run; the engine as it was at the end, closed."""
    assert run.claim_folder()
    with closing(LocalEngine(run, grader)) as engine:
        train(run, engine)
    return engine
