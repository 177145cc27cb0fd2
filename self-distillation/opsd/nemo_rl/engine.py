"""Phase 2 on several GPUs and nodes: on-policy self-distillation (arXiv:2604.12002, section 2.2) with NeMo-RL.

    L(theta) = E_x E_{y ~ pi_theta(. | x)} sum_t KL( pi_theta(. | x, y_<t) || pi_SRT(. | x, y, P_r, y_<t) )

This is the loop, in the driver. On each GPU a policy worker holds its shard of the student, scores and updates,
and a vLLM worker samples while that one sleeps; the verifier is a Ray actor.
"""

import contextlib
import math
import os
import shutil
import time
from pathlib import Path
from typing import Any

import ray
import torch
from nemo_rl.environments.utils import create_env
from transformers import AutoConfig, AutoModelForCausalLM

from opsd.journal import Journal
from opsd.local_engine import within_context
from opsd.metrics import StepMetrics, rollout_figures
from opsd.models import check_head
from opsd.nemo_rl import runtime
from opsd.nemo_rl.rollouts import NemoGrader
from opsd.nemo_rl.settings import cluster_shape, count_parameters
from opsd.nemo_rl.trainer import Trainer
from opsd.problems_order import ProblemOrder
from opsd.rollouts import sample_and_grade
from opsd.rows import Pair, Rollout, build_pair
from opsd.settings import DistillKnobs, kl_options
from srt.console import progress
from srt.errors import UserError
from srt.layout import Layout
from srt.problems import ProblemSet
from srt.records import Problem


class NemoEngine:
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
        self.validation = validation
        self.output_dir = output_dir.resolve()  # workers have another working directory
        self.options = kl_options(knobs)
        self.order = ProblemOrder(len(train.problems), knobs.num_prompts_per_step, knobs.seed)
        self.total_steps = self.order.total_steps(knobs.max_num_steps, knobs.max_num_epochs)
        self.journal = Journal(knobs, layout, train, self.output_dir)

    def run(self) -> None:
        if self.journal.claim():
            return
        with contextlib.ExitStack() as self.opened:  # workers and Ray end with the run, however it ends
            self._open()
            with progress(self.total_steps, "step", initial=self.trainer.first_step) as bar:
                for step in range(self.trainer.first_step, self.total_steps):
                    figures = self._step(step)
                    figures |= self._validate(step)
                    self._synchronise_teacher(step + 1)
                    self.journal.report(step, figures, self.total_steps, bar)
                    self._checkpoint(step + 1)
            self._finish()

    # The algorithm --------------------------------------------------------------------------------------

    def _step(self, step: int) -> dict[str, Any]:
        """Sample, grade, build both rows, score, update."""
        started = time.monotonic()
        seconds: dict[str, float] = {}
        problems = [self.train.problems[index] for index in self.order.step(step)]
        rollouts = self._rollouts(problems, "train", step, seconds)
        pairs = [build_pair(rollout, self.layout, self.max_teacher_tokens) for rollout in rollouts]
        pairs = [pair for pair in pairs if self._enters_loss(pair)]
        if not pairs:
            raise UserError(
                f"step {step}: no response enters the loss ({len(rollouts)} of {len(problems)} were graded); look "
                f"into {self.journal.set_aside.path}, raise MAX_TOTAL_SEQUENCE_LENGTH or MAX_TEACHER_TOKENS, or "
                "let responses that were cut off take part (INCLUDE_TRUNCATED=1)"
            )
        size = self.knobs.train_global_batch_size
        updates = [pairs[start : start + size] for start in range(0, len(pairs), size)]
        made = self.trainer.update(updates, self.options, seconds)
        if not math.isfinite(made.figures["grad_norm"]):
            raise UserError(
                f"step {step}: the gradient's norm is not finite: the update was not made, and the newest "
                "checkpoint is from before; a lower LR in a new OUTPUT_DIR is the usual remedy"
            )
        metrics, token_kl = StepMetrics(), {}
        for batch, output in made.scored:
            metrics.add(batch, output)
            parts = output.token_kl.split([len(pair.targets) for pair in batch])
            token_kl |= {id(pair): part.tolist() for pair, part in zip(batch, parts, strict=True)}
        self.journal.log_samples(step, pairs, token_kl)
        seconds["other"] = time.monotonic() - started - sum(seconds.values())
        return {
            **rollout_figures(rollouts),
            **metrics.means(),
            "loss": metrics.means()["kl"],
            **made.figures,
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

    def _rollouts(
        self, problems: list[Problem], purpose: str, step: int, seconds: dict[str, float]
    ) -> list[Rollout]:
        """vLLM is awake while the responses are graded, too: that takes seconds, and to wake it takes as long."""
        with self.trainer.awake(seconds) as sampler:
            started = time.monotonic()
            rollouts = sample_and_grade(
                problems,
                purpose,
                step,
                self.layout,
                sampler,
                self.grader,
                self.max_total_tokens,
                self.knobs.seed,
                self.journal.set_aside,
            )
            seconds["grading"] = self.grader.take_seconds()
            seconds["rollouts"] = time.monotonic() - started - seconds["grading"]
        return rollouts

    def _validate(self, step: int) -> dict[str, float]:
        """avg@k on the validation problems, after every VAL_PERIOD steps and at the end."""
        period, finished_steps = self.knobs.val_period, step + 1
        if self.validation is None or (finished_steps % period and finished_steps != self.total_steps):
            return {}
        repeated = [p for p in self.validation.problems for _ in range(self.knobs.val_num_samples)]
        rollouts = self._rollouts(repeated, "validation", step, {})
        if not rollouts:
            path = self.journal.set_aside.path
            print(f"warning, step {step}: every validation sample was set aside; see {path}")
            return {}
        figures = rollout_figures(rollouts)
        return {"val_avg_at_k": figures["reward"], "val_response_tokens": figures["response_tokens"]}

    def _synchronise_teacher(self, finished_steps: int) -> None:
        period = self.knobs.teacher_sync_steps
        if period and finished_steps % period == 0:
            self.trainer.synchronise_teacher()

    # Start and end --------------------------------------------------------------------------------------

    def _open(self) -> None:
        """Ray, the workers, and everything as the newest checkpoint left it."""
        knobs = self.knobs
        self.max_total_tokens = within_context(
            "MAX_TOTAL_SEQUENCE_LENGTH", knobs.max_total_sequence_length, knobs.student_model
        )
        self.max_teacher_tokens = within_context(
            "MAX_TEACHER_TOKENS", knobs.max_teacher_tokens, knobs.teacher_model
        )
        config = AutoConfig.from_pretrained(knobs.student_model)
        for model_path in dict.fromkeys((knobs.student_model, knobs.teacher_model)):
            with torch.device("meta"):  # of the model only its kind is asked
                check_head(AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model_path)), model_path)
        shape = cluster_shape(knobs, torch.cuda.device_count(), config, count_parameters(config))
        print(f"{shape.describe()}; the workers take about two minutes to start")
        runtime.join_ray(knobs, shape.gpus)
        self.opened.callback(ray.shutdown)
        limits = {"workers": knobs.grading_workers, "time_limit": knobs.grading_time_limit}
        self.grader = NemoGrader(create_env(runtime.ENVIRONMENT_NAME, limits))
        tokenizer = self.layout.tokenizer
        pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else self.layout.eot_ids[0]
        updates_per_step = knobs.num_prompts_per_step // knobs.train_global_batch_size
        self.trainer = Trainer(
            knobs,
            self.layout,
            shape,
            pad_id,
            self.max_total_tokens,
            self.total_steps * updates_per_step,
            self.output_dir / "checkpoints",
        )
        self.opened.callback(self.trainer.close)
        self.journal.open(self.trainer.first_step)
        self.started = time.monotonic()

    def _checkpoint(self, finished_steps: int) -> None:
        if finished_steps % self.knobs.save_period == 0 or finished_steps == self.total_steps:
            self.trainer.save(finished_steps)

    def _finish(self) -> None:
        """Write the SD-Zero model as an ordinary Hugging Face folder."""
        final = self.output_dir / "student"
        temporary = self.output_dir / ".student.tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        self.trainer.write_student(temporary)
        self.journal.describe_student(temporary)
        seconds = round(time.monotonic() - self.started, 1)
        self.journal.close({"steps": self.total_steps, "seconds": seconds, "student": str(final)})
        os.replace(temporary, final)  # comes last: where this folder is, the run is complete
