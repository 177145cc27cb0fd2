"""Phase 2 on one machine: on-policy self-distillation (arXiv:2604.12002, section 2.2) with torch alone.

    L(theta) = E_x E_{y ~ pi_theta(. | x)} sum_t KL( pi_theta(. | x, y_<t) || pi_SRT(. | x, y, P_r, y_<t) )
"""

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from opsd.checkpoint import newest_checkpoint, read_state, save_checkpoint
from opsd.metrics import StepMetrics, open_step_log, rollout_figures
from opsd.problems_order import ProblemOrder
from opsd.reports import Reports
from opsd.result import is_complete, write_result
from opsd.rollouts import Rollouts, on_policy
from opsd.rows import Pair, build_pair
from opsd.settings import DistillKnobs, identity, kl_options
from opsd.student import Student
from opsd.teacher import open_teacher
from opsd.updates import Scored, Updates
from opsd.validation import Validation
from srt.console import print_summary, progress
from srt.errors import UserError
from srt.layout import Layout
from srt.models import context_limit, stored_dtype
from srt.problems import ProblemSet, set_aside_bad_records
from srt.provenance import model_fingerprint, open_run
from srt.sampling import Sampler, SamplingSettings, choose_backend, open_sampler
from srt.sampling.transformers_sampler import TransformersSampler
from srt.verifiers.pool import Grader

LOGGED_SAMPLES = 4  # responses of a step that go into samples.jsonl


class LocalEngine:
    """One run in `output_dir`; `run()` starts it or continues it after the newest checkpoint."""

    def __init__(
        self,
        knobs: DistillKnobs,
        layout: Layout,
        train: ProblemSet,
        validation: ProblemSet | None,
        output_dir: Path,
    ):
        self.knobs = knobs
        self.layout = layout
        self.train = train
        self.validation_problems = validation
        self.output_dir = output_dir
        self.order = ProblemOrder(len(train.problems), knobs.num_prompts_per_step, knobs.seed)
        self.total_steps = self.order.total_steps(knobs.max_num_steps, knobs.max_num_epochs)

    def run(self) -> None:
        self._claim_folder()
        if is_complete(self.output_dir):
            print(f"self-distillation is complete: {self.output_dir / 'student'}")
            return
        set_aside_bad_records(self.train, self.output_dir)
        with Grader(self.knobs.grading_workers, self.knobs.grading_time_limit) as grader:
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
        with on_policy(self.sampler, self.student, seconds):
            rollouts = self.rollouts.sample(problems, "train", step, seconds)
        pairs = [build_pair(rollout, self.layout, self.max_teacher_tokens) for rollout in rollouts]
        pairs = [pair for pair in pairs if self._enters_loss(pair)]
        metrics, grad_norms = StepMetrics(), []
        scored: list[Scored] = []
        size = self.knobs.train_global_batch_size
        for start in range(0, len(pairs), size):
            grad_norm, of_update = self.updates.update(pairs[start : start + size], metrics, seconds)
            grad_norms.append(grad_norm)
            scored += of_update
        if not grad_norms:
            raise UserError(
                f"step {step}: no response enters the loss ({len(rollouts)} of {len(problems)} were graded); look "
                f"into {self.set_aside.path}, raise MAX_TOTAL_SEQUENCE_LENGTH or MAX_TEACHER_TOKENS, or let "
                "responses that were cut off take part (INCLUDE_TRUNCATED=1)"
            )
        # Those of the first problems; the first of `scored` would always be the shortest of the step.
        first = pairs[:LOGGED_SAMPLES]
        self.reports.responses(step, [one for one in scored if any(one.pair is pair for pair in first)])
        return {
            **rollout_figures(rollouts),
            **metrics.means(),
            "loss": metrics.means()["kl"],
            "grad_norm": sum(grad_norms) / len(grad_norms),
            "lr": self.updates.lr,
            "rollouts": len(rollouts),
            "trained_responses": len(pairs),
            "trained_tokens": metrics.tokens["kl"],
            "shortened_for_teacher": sum(len(pair.targets) < len(pair.rollout.y) for pair in pairs),
            "set_aside": len(problems) - len(rollouts),
            "seconds": {name: round(value, 4) for name, value in seconds.items()},
        }

    def _enters_loss(self, pair: Pair) -> bool:
        truncated = pair.rollout.finish_reason == "length"
        return bool(pair.targets) and (self.knobs.include_truncated or not truncated)

    def _synchronise_teacher(self) -> None:
        """The teacher becomes the student after TEACHER_SYNC_STEPS steps, or TEACHER_SYNC_EPOCHS passes."""
        finished, steps = self.finished_steps, self.knobs.teacher_sync_steps
        epochs = self.knobs.teacher_sync_epochs
        if steps and finished % steps == 0:
            self.teacher.become(self.student)
        if epochs and self.order.epochs(finished - 1) // epochs < self.order.epochs(finished) // epochs:
            self.teacher.become(self.student)

    def _validate(self, bar: Any) -> dict[str, Any]:
        """Before the first step, after every VAL_PERIOD steps, and at the end."""
        if self.validation is None or not self.validation.due(self.finished_steps, self.total_steps):
            return {}
        with on_policy(self.sampler, self.student, {}):
            figures = self.validation.run(self.finished_steps, self.rollouts, self.student)
        if figures:
            self.reports.validation(self.validation, bar)
        return {f"val_{name}": value for name, value in figures.items()}

    def _collapsed(self) -> bool:
        return self.validation is not None and self.validation.collapsed

    # Start and end ----------------------------------------------------------------------------------------

    def _claim_folder(self) -> None:
        """Raises UserError when the output folder holds a run with other settings, or one that is going on."""
        of_run = identity(self.knobs) | {
            "student_fingerprint": model_fingerprint(self.knobs.student_model),
            "teacher_fingerprint": model_fingerprint(self.knobs.teacher_model),
            "dataset_fingerprint": self.train.fingerprint,
            "control_phrases": self.layout.phrases.as_dict(),
            "prompt": self.layout.prompt.as_dict(),
        }
        open_run(self.output_dir, of_run, asdict(self.knobs))

    def _open(self, grader: Grader) -> None:
        """Fresh start, or everything as the newest checkpoint left it."""
        knobs = self.knobs
        max_total_tokens = within_context(
            "MAX_TOTAL_SEQUENCE_LENGTH", knobs.max_total_sequence_length, knobs.student_model
        )
        self.max_teacher_tokens = within_context(
            "MAX_TEACHER_TOKENS", knobs.max_teacher_tokens, knobs.teacher_model
        )
        checkpoint = newest_checkpoint(self.output_dir)
        state = read_state(checkpoint) if checkpoint else {"step": 0, "teacher_was_synced": False}
        self.finished_steps = first_step = state["step"]
        if checkpoint:
            print(f"continuing after step {first_step} from {checkpoint}")

        self.student = Student(knobs, checkpoint and checkpoint / "student")
        self.teacher = open_teacher(
            knobs, self.student, checkpoint / "teacher" if state["teacher_was_synced"] else None
        )
        tokenizer = self.layout.tokenizer
        self.pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else self.layout.eot_ids[0]
        updates_per_step = knobs.num_prompts_per_step // knobs.train_global_batch_size
        self.updates = Updates(
            knobs, kl_options(knobs), self.student, self.teacher, self.pad_id,
            self.total_steps * updates_per_step, checkpoint,
        )  # fmt: skip

        self.reports = Reports(knobs, self.layout, self.output_dir, first_step)
        self.set_aside = open_step_log(self.output_dir / "set_aside.jsonl", first_step)
        self.validation = None
        if self.validation_problems is not None:
            self.validation = Validation(knobs, self.validation_problems, self.output_dir, first_step)

        revises = self.validation is not None and knobs.val_revise
        longest_cue = max(len(self.layout.cue(r)) for r in (0, 1))
        max_revision_tokens = min(self.max_teacher_tokens, 2 * max_total_tokens + longest_cue)
        self.sampler = self._open_sampler(max(max_total_tokens, max_revision_tokens if revises else 0))
        self.rollouts = Rollouts(
            self.layout, self.sampler, grader, max_total_tokens, max_revision_tokens, knobs.seed, self.set_aside
        )
        self.started = time.monotonic()

    def _open_sampler(self, max_model_len: int) -> Sampler:
        knobs = self.knobs
        sampling = SamplingSettings(knobs.temperature, knobs.top_p, tuple(self.layout.eot_ids))
        if choose_backend(knobs.sampler) == "transformers":
            return TransformersSampler(self.student.model, self.pad_id, sampling, knobs.sampler_batch)
        return open_sampler(
            "vllm",
            knobs.student_model,
            sampling,
            max_model_len=max_model_len,
            max_batch=knobs.sampler_batch,
            memory_utilization=knobs.gpu_memory_utilization,
            can_sleep=True,
        )

    def _checkpoint(self) -> None:
        last = self.finished_steps == self.total_steps or self._collapsed()
        if not last and self.finished_steps % self.knobs.save_period:
            return
        save_checkpoint(
            self.output_dir,
            self.finished_steps,
            self.student,
            self.teacher if self.teacher.was_synchronised else None,
            self.updates.optimizer,
            self.updates.scheduler,
            self.knobs.keep_checkpoints,
        )
        if self.validation:
            self.validation.forget_others()

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
                student = Student(self.knobs, best)
                results["student_of_step"] = self.validation.best["step"] + 1
        write_result(
            self.output_dir,
            lambda folder: student.write_model(folder, stored_dtype(self.knobs.student_model)),
            self.knobs,
            self.layout,
            self.train.fingerprint,
            results,
        )
        print_summary("Self-distillation", results | {"metrics": self.output_dir / "metrics.jsonl"})


def within_context(knob: str, tokens: int, model_path: str) -> int:
    """`tokens`, or as many as the model takes, with a line that says so."""
    limit = context_limit(model_path)
    if tokens > limit:
        print(f"{knob}: {limit} tokens instead of {tokens}, since {model_path} takes no more")
    return min(tokens, limit)
