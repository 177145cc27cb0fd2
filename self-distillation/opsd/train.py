"""Phase 2, on-policy self-distillation (arXiv:2604.12002, section 2.2): the only training loop.

L(theta) = E_x E_{y ~ pi_theta(. | x)} sum_t KL( pi_theta(. | x, y_<t) || pi_SRT(. | x, y, P_r, y_<t) )
"""

import time
from contextlib import closing

from opsd.engine import NO_UPDATE, Engine
from opsd.export import export_student
from opsd.metrics import StepOutput
from opsd.monitors import require_on_policy
from opsd.response_queue import ResponseQueue
from opsd.run import Run
from opsd.run_log import RunLog
from opsd.teacher_sync import TeacherSync
from opsd.timing import record_spans
from opsd.validation import Validator
from srt.common.progress import Progress


def train(run: Run, engine: Engine) -> None:
    """All remaining steps, with validation, teacher synchronization, logs and checkpoints; then the export.

    With STOP_ON_COLLAPSE the run ends early when validation collapses, and exports the best student.
    """
    started, finished = time.monotonic(), engine.start_step
    with (
        # A step has a line of its own (run_log.py).
        Progress("step", initial=engine.start_step / run.total_steps, line_seconds=None) as bar,
        closing(RunLog(run, engine.start_step, bar)) as log,
    ):
        responses = ResponseQueue(run, run.rollout_worker(engine.grader, log.set_aside), engine.start_step)
        if note := responses.describe():
            log.message(note)
        validator = Validator(run, engine, log)
        teacher_sync = TeacherSync(run, engine, validator, log)
        validator.run_if_due(finished)
        for step in run.remaining_steps(engine.start_step):
            if validator.collapsed:
                break
            output = train_step(run, engine, responses, step)
            metrics = output.metrics()
            if step == engine.start_step:
                require_on_policy(metrics)
            finished = step + 1
            metrics |= validator.run_if_due(finished)
            metrics |= teacher_sync.run_if_due(finished, metrics, output.rollouts)  # pi_SRT := pi_theta
            log.step(step, metrics, output)
            if run.checkpoint_due(finished) or validator.collapsed:
                responses.save(finished)  # first: they are part of the checkpoint
                engine.save_checkpoint(finished)
                validator.discard_former_best()
        if left := len(responses.under_way):
            log.message(f"{left} responses were under way when the run ended, and are not trained on")
    export_student(run, engine, finished, time.monotonic() - started, validator.best, validator.lines)


def train_step(run: Run, engine: Engine, responses: ResponseQueue, step: int) -> StepOutput:
    with record_spans(rest="other") as seconds:
        taken = responses.take(engine, step)  # y ~ pi_theta(. | x) for the step's problems, r = verify(y)
        pairs = run.build_pairs(taken.rollouts, step)  # student: chat + y, teacher: chat + y + cue(r) + y
        with responses.ahead(engine, step + 1):  # nothing, or with ROLLOUT_AHEAD the next step's y, meanwhile
            result = engine.update(pairs) if pairs else NO_UPDATE  # sum_t KL(pi_theta || pi_SRT), optimizer step
    return StepOutput(taken.problems, taken.rollouts, pairs, result, seconds, taken.metrics)
