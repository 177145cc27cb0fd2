"""What both engines of Phase 2 share: what enters the loss, when something is due, the folder and the limits."""

import contextlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

from opsd.config import DistillConfig, identity
from opsd.export import is_complete
from opsd.metrics import StepMetrics, open_step_log, rollout_metrics
from opsd.pairs import SequencePair, build_pair
from opsd.problem_order import ProblemOrder
from opsd.rollouts import Rollout
from opsd.run_log import RunLog
from opsd.validation import Validation
from srt.common.errors import UserError
from srt.common.models import context_limit
from srt.contract.layout import Layout
from srt.contract.provenance import model_fingerprint, open_run
from srt.contract.records import Problem
from srt.problems import ProblemSet, set_aside_bad_records

LOGGED_SAMPLES = 4  # responses of a step that go into samples.jsonl


class Engine:
    """One run in `output_dir`; `run()` of an engine starts it or continues it after the newest checkpoint.

    An engine has `finished_steps` and `rollouts`, and fills in the methods at the end: how its sampler wakes up,
    who writes the student that is validated, and how teacher and checkpoints are made.
    """

    def __init__(
        self,
        config: DistillConfig,
        layout: Layout,
        train: ProblemSet,
        validation: ProblemSet | None,
        output_dir: Path,
    ):
        self.config = config
        self.layout = layout
        self.train = train
        self.validation_problems = validation
        self.output_dir = output_dir
        self.order = ProblemOrder(len(train.problems), config.num_prompts_per_step, config.seed)
        self.total_steps = self.order.total_steps(config.max_num_steps, config.max_num_epochs)

    # Of a step ------------------------------------------------------------------------------------------

    def _pairs(self, step: int, problems: list[Problem], rollouts: list[Rollout]) -> list[SequencePair]:
        """Both rows of the responses that enter the loss. Raises UserError when there is none."""
        pairs = [build_pair(rollout, self.layout, self.max_teacher_tokens) for rollout in rollouts]
        pairs = [pair for pair in pairs if self._enters_loss(pair)]
        if not pairs:
            raise UserError(
                f"step {step}: no response enters the loss ({len(rollouts)} of {len(problems)} were graded); look "
                f"into {self.set_aside.path}, raise MAX_TOTAL_SEQUENCE_LENGTH or MAX_TEACHER_TOKENS, or let "
                "responses that were cut off take part (INCLUDE_TRUNCATED=1)"
            )
        return pairs

    def _enters_loss(self, pair: SequencePair) -> bool:
        truncated = pair.rollout.finish_reason == "length"
        return bool(pair.targets) and (self.config.include_truncated or not truncated)

    def _figures(
        self,
        problems: list[Problem],
        rollouts: list[Rollout],
        pairs: list[SequencePair],
        metrics: StepMetrics,
        of_update: dict[str, float],
        seconds: dict[str, float],
    ) -> dict[str, Any]:
        """A line of metrics.jsonl."""
        return {
            **rollout_metrics(rollouts),
            **metrics.means(),
            "loss": metrics.means()["kl"],
            **of_update,
            "rollouts": len(rollouts),
            "trained_responses": len(pairs),
            "trained_tokens": metrics.tokens["kl"],
            "shortened_for_teacher": sum(len(pair.targets) < len(pair.rollout.y) for pair in pairs),
            "set_aside": len(problems) - len(rollouts),
            "seconds": {name: round(value, 4) for name, value in seconds.items()},
        }

    # Between steps --------------------------------------------------------------------------------------

    def _synchronise_teacher(self) -> None:
        """The teacher becomes the student after TEACHER_SYNC_STEPS steps, or TEACHER_SYNC_EPOCHS passes."""
        finished, steps = self.finished_steps, self.config.teacher_sync_steps
        epochs = self.config.teacher_sync_epochs
        after_steps = steps and finished % steps == 0
        if after_steps or (
            epochs and self.order.epochs(finished - 1) // epochs < self.order.epochs(finished) // epochs
        ):
            self.sync_teacher()

    def _validate(self, bar: Any) -> dict[str, Any]:
        """Before the first step, after every VAL_PERIOD steps, and at the end."""
        if self.validation is None or not self.validation.due(self.finished_steps, self.total_steps):
            return {}
        with self._awake({}):
            figures = self.validation.run(self.finished_steps, self.rollouts, self._validated())
        if figures:
            self.reports.validation(self.validation, bar)
        return {f"val_{name}": value for name, value in figures.items()}

    def _collapsed(self) -> bool:
        return self.validation is not None and self.validation.collapsed

    def _checkpoint(self) -> None:
        """After every SAVE_PERIOD steps, and at the end."""
        last = self.finished_steps == self.total_steps or self._collapsed()
        if not last and self.finished_steps % self.config.save_period:
            return
        self._save_checkpoint()
        if self.validation:
            self.validation.forget_others()

    # Start ----------------------------------------------------------------------------------------------

    def _claim_folder(self) -> bool:
        """False when the run is complete.

        Raises UserError when the output folder holds a run with other settings, or one that is going on.
        """
        of_run = identity(self.config) | {
            "student_fingerprint": model_fingerprint(self.config.student_model),
            "teacher_fingerprint": model_fingerprint(self.config.teacher_model),
            "dataset_fingerprint": self.train.fingerprint,
            "control_phrases": self.layout.phrases.as_dict(),
            "prompt": self.layout.prompt.as_dict(),
        }
        open_run(self.output_dir, of_run, asdict(self.config))
        if is_complete(self.output_dir):
            print(f"self-distillation is complete: {self.output_dir / 'student'}")
            return False
        set_aside_bad_records(self.train, self.output_dir)
        return True

    def _set_limits(self) -> None:
        """The token limits of responses, teacher rows, revisions and the sampler, and the padding token."""
        config = self.config
        self.max_total_tokens = within_context(
            "MAX_TOTAL_SEQUENCE_LENGTH", config.max_total_sequence_length, config.student_model
        )
        self.max_teacher_tokens = within_context(
            "MAX_TEACHER_TOKENS", config.max_teacher_tokens, config.teacher_model
        )
        longest_cue = max(len(self.layout.cue(r)) for r in (0, 1))
        self.max_revision_tokens = min(self.max_teacher_tokens, 2 * self.max_total_tokens + longest_cue)
        revises = self.validation_problems is not None and config.val_revise
        self.max_model_len = max(self.max_total_tokens, self.max_revision_tokens if revises else 0)
        tokenizer = self.layout.tokenizer
        self.pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else self.layout.eot_ids[0]
        self.total_updates = self.total_steps * (config.num_prompts_per_step // config.train_global_batch_size)

    def _open_logs(self) -> None:
        """Reports, set-aside responses and validation, as they were after `finished_steps`."""
        self.reports = RunLog(self.config, self.layout, self.output_dir, self.finished_steps)
        self.set_aside = open_step_log(self.output_dir / "set_aside.jsonl", self.finished_steps)
        self.validation = None
        if self.validation_problems is not None:
            self.validation = Validation(
                self.config, self.validation_problems, self.output_dir, self.finished_steps
            )

    # Of each engine -------------------------------------------------------------------------------------

    def _awake(self, seconds: dict[str, float]) -> contextlib.AbstractContextManager:
        """The sampler with the student's weights; afterwards it has given its memory back."""
        raise NotImplementedError

    def _validated(self) -> Any:
        """What `Validation.run` saves when it is the best."""
        raise NotImplementedError

    def sync_teacher(self) -> None:
        raise NotImplementedError

    def _save_checkpoint(self) -> None:
        raise NotImplementedError


def within_context(knob: str, tokens: int, model_path: str) -> int:
    """`tokens`, or as many as the model takes, with a line that says so."""
    limit = context_limit(model_path)
    if tokens > limit:
        print(f"{knob}: {limit} tokens instead of {tokens}, since {model_path} takes no more")
    return min(tokens, limit)
