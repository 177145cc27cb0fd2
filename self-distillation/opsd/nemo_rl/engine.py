"""Phase 2 on several GPUs and nodes: on-policy self-distillation (arXiv:2604.12002, section 2.2) with NeMo-RL.

    L(theta) = E_x E_{y ~ pi_theta(. | x)} sum_t KL( pi_theta(. | x, y_<t) || pi_SRT(. | x, y, P_r, y_<t) )

This is the loop, in the driver. On each GPU a policy worker holds its shard of the student, scores and updates,
and a vLLM worker samples while that one sleeps; the verifier is a Ray actor.
"""

import contextlib
import math
import shutil
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray
import torch
from nemo_rl.environments.utils import create_env
from transformers import AutoConfig, AutoModelForCausalLM

from opsd.local_engine import LOGGED_SAMPLES, within_context
from opsd.metrics import StepMetrics, open_step_log, rollout_figures
from opsd.models import check_causal, check_head
from opsd.nemo_rl import runtime
from opsd.nemo_rl.rollouts import NemoGrader
from opsd.nemo_rl.settings import cluster_shape, count_parameters
from opsd.nemo_rl.trainer import Trainer
from opsd.problems_order import ProblemOrder
from opsd.reports import Reports
from opsd.result import is_complete, write_result
from opsd.rollouts import Rollouts
from opsd.rows import Pair, build_pair
from opsd.settings import DistillKnobs, identity, kl_options
from opsd.updates import Scored
from opsd.validation import Validation
from srt.console import print_summary, progress
from srt.errors import UserError
from srt.layout import Layout
from srt.problems import ProblemSet, set_aside_bad_records
from srt.provenance import model_fingerprint, open_run


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
        self.validation_problems = validation
        self.output_dir = output_dir.resolve()  # workers have another working directory
        self.order = ProblemOrder(len(train.problems), knobs.num_prompts_per_step, knobs.seed)
        self.total_steps = self.order.total_steps(knobs.max_num_steps, knobs.max_num_epochs)

    def run(self) -> None:
        if rank := self.knobs.lora_rank:
            raise UserError(f"LORA_RANK={rank}: ENGINE=nemo-rl trains all weights; use ENGINE=local")
        self._claim_folder()
        if is_complete(self.output_dir):
            print(f"self-distillation is complete: {self.output_dir / 'student'}")
            return
        set_aside_bad_records(self.train, self.output_dir)
        with contextlib.ExitStack() as self.opened:  # workers and Ray end with the run, however it ends
            self._open()
            with progress(self.total_steps, "step", initial=self.finished_steps) as bar:
                self._validate(bar)
                while self.finished_steps < self.total_steps and not self._collapsed():
                    figures = self._step(self.finished_steps)
                    self.finished_steps += 1
                    self._synchronise_teacher()
                    figures |= self._validate(bar)
                    self.reports.step(self.finished_steps - 1, figures, bar)
                    bar.write(step_line(self.finished_steps, self.total_steps, figures))
                    self._checkpoint()
            self._finish()

    # The algorithm --------------------------------------------------------------------------------------

    def _step(self, step: int) -> dict[str, Any]:
        """Sample, grade, build both rows, score, update."""
        started, seconds = time.monotonic(), {}
        problems = [self.train.problems[index] for index in self.order.step(step)]
        with self.trainer.awake(seconds):
            rollouts = self.rollouts.sample(problems, "train", step, seconds)
        pairs = [build_pair(rollout, self.layout, self.max_teacher_tokens) for rollout in rollouts]
        pairs = [pair for pair in pairs if self._enters_loss(pair)]
        if not pairs:
            raise UserError(
                f"step {step}: no response enters the loss ({len(rollouts)} of {len(problems)} were graded); look "
                f"into {self.set_aside.path}, raise MAX_TOTAL_SEQUENCE_LENGTH or MAX_TEACHER_TOKENS, or let "
                "responses that were cut off take part (INCLUDE_TRUNCATED=1)"
            )
        size = self.knobs.train_global_batch_size
        updates = [pairs[start : start + size] for start in range(0, len(pairs), size)]
        made = self.trainer.update(updates, kl_options(self.knobs), seconds)
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
        self.reports.responses(step, [Scored(pair, token_kl[id(pair)]) for pair in pairs[:LOGGED_SAMPLES]])
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

    def _synchronise_teacher(self) -> None:
        """The teacher becomes the student after TEACHER_SYNC_STEPS steps, or TEACHER_SYNC_EPOCHS passes."""
        finished, steps = self.finished_steps, self.knobs.teacher_sync_steps
        epochs = self.knobs.teacher_sync_epochs
        if steps and finished % steps == 0:
            self.trainer.synchronise_teacher()
        if epochs and self.order.epochs(finished - 1) // epochs < self.order.epochs(finished) // epochs:
            self.trainer.synchronise_teacher()

    def _validate(self, bar: Any) -> dict[str, Any]:
        """Before the first step, after every VAL_PERIOD steps, and at the end."""
        if self.validation is None or not self.validation.due(self.finished_steps, self.total_steps):
            return {}
        with self.trainer.awake({}):
            figures = self.validation.run(self.finished_steps, self.rollouts, self.trainer)
        if figures:
            self.reports.validation(self.validation, bar)
        return {f"val_{name}": value for name, value in figures.items()}

    def _collapsed(self) -> bool:
        return self.validation is not None and self.validation.collapsed

    # Start and end --------------------------------------------------------------------------------------

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

    def _open(self) -> None:
        """Ray, the workers, and everything as the newest checkpoint left it."""
        knobs = self.knobs
        max_total_tokens = within_context(
            "MAX_TOTAL_SEQUENCE_LENGTH", knobs.max_total_sequence_length, knobs.student_model
        )
        self.max_teacher_tokens = within_context(
            "MAX_TEACHER_TOKENS", knobs.max_teacher_tokens, knobs.teacher_model
        )
        revises = self.validation_problems is not None and knobs.val_revise
        longest_cue = max(len(self.layout.cue(r)) for r in (0, 1))
        max_revision_tokens = min(self.max_teacher_tokens, 2 * max_total_tokens + longest_cue)

        config = AutoConfig.from_pretrained(knobs.student_model)
        for model_path in dict.fromkeys((knobs.student_model, knobs.teacher_model)):
            with torch.device("meta"):  # of the model only its kind is asked
                model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model_path))
            check_causal(model, model_path)
            check_head(model, model_path)
        shape = cluster_shape(knobs, torch.cuda.device_count(), config, count_parameters(config))
        print(f"{shape.describe()}; the workers take about two minutes to start")
        runtime.join_ray(knobs, shape.gpus)
        self.opened.callback(ray.shutdown)
        grader = NemoGrader(create_env(runtime.ENVIRONMENT_NAME, {"knobs": knobs}))
        tokenizer = self.layout.tokenizer
        updates_per_step = knobs.num_prompts_per_step // knobs.train_global_batch_size
        self.trainer = Trainer(
            knobs,
            self.layout,
            shape,
            tokenizer.pad_token_id if tokenizer.pad_token_id is not None else self.layout.eot_ids[0],
            max(max_total_tokens, max_revision_tokens if revises else 0),
            self.total_steps * updates_per_step,
            self.output_dir / "checkpoints",
        )
        self.opened.callback(self.trainer.close)
        self.finished_steps = first_step = self.trainer.first_step

        self.reports = Reports(knobs, self.layout, self.output_dir, first_step)
        self.set_aside = open_step_log(self.output_dir / "set_aside.jsonl", first_step)
        self.validation = None
        if self.validation_problems is not None:
            self.validation = Validation(knobs, self.validation_problems, self.output_dir, first_step)
        self.rollouts = Rollouts(
            self.layout, self.trainer.sampler, grader, max_total_tokens, max_revision_tokens, knobs.seed,
            self.set_aside,
        )  # fmt: skip
        self.started = time.monotonic()

    def _checkpoint(self) -> None:
        last = self.finished_steps == self.total_steps or self._collapsed()
        if not last and self.finished_steps % self.knobs.save_period:
            return
        self.trainer.checkpoint(self.finished_steps)
        if self.validation:
            self.validation.forget_others()

    def _finish(self) -> None:
        """Write the last student, or with STOP_ON_COLLAPSE the best one, in the SRT model's precision."""
        for opened in (self.reports, self.set_aside):
            opened.close()
        results = {
            "steps": self.finished_steps,
            "seconds": round(time.monotonic() - self.started, 1),
            "student": str(self.output_dir / "student"),
        }
        write_model = self.trainer.save
        if self.validation:
            self.validation.close()
            if best := self.validation.best_student:
                results["student_of_step"] = self.validation.best["step"] + 1

                def write_model(folder: Path) -> None:
                    shutil.copytree(best, folder)

        write_result(self.output_dir, write_model, self.knobs, self.layout, self.train.fingerprint, results)
        print_summary("Self-distillation", results | {"metrics": self.output_dir / "metrics.jsonl"})


def step_line(number: int, total: int, figures: dict[str, Any]) -> str:
    """step 12/80: reward 61.3%, KL 0.0521 (r0 0.0931, r1 0.0214), 812 tokens, 14.2 s (generation 45%, ...)"""
    kl_r0, kl_r1 = (figures.get(name, math.nan) for name in ("kl_r0", "kl_r1"))
    seconds = figures["seconds"]
    total_seconds = sum(seconds.values()) or 1.0
    shares = ", ".join(f"{name} {value / total_seconds:.0%}" for name, value in seconds.items())
    return (
        f"step {number}/{total}: reward {figures['reward']:.1%}, KL {figures['kl']:.4f} (r0 {kl_r0:.4f}, "
        f"r1 {kl_r1:.4f}), {figures['response_tokens']:.0f} tokens, {total_seconds:.1f} s ({shares})"
    )
