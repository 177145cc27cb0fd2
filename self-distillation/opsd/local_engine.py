"""Phase 2 on one machine: on-policy self-distillation (arXiv:2604.12002, section 2.2) with torch alone.

    L(theta) = E_x E_{y ~ pi_theta(. | x)} sum_t KL( pi_theta(. | x, y_<t) || pi_SRT(. | x, y, P_r, y_<t) )

The sum over tokens is divided by the number of tokens of the update, the one denominator: it changes the
gradient's length, which clipping and Adam undo, and not its direction.
"""

import contextlib
import math
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers import get_scheduler

from opsd.checkpoint import load_optimizer, newest_checkpoint, read_state, save_checkpoint
from opsd.health import Health
from opsd.kl import KLOutput, exact_kl
from opsd.metrics import MetricsLog, StepMetrics, open_step_log, rollout_figures
from opsd.models import check_head, head, predicting_hidden
from opsd.problems_order import ProblemOrder
from opsd.rollouts import on_policy, sample_and_grade
from opsd.rows import Pair, Rollout, build_pair, micro_batches
from opsd.settings import NOT_IDENTITY, DistillKnobs, kl_options
from srt.console import print_summary, progress
from srt.errors import UserError
from srt.layout import Layout
from srt.models import context_limit, load_model, stored_dtype
from srt.problems import ProblemSet
from srt.provenance import (
    CHECKPOINT_METADATA,
    close_run,
    model_fingerprint,
    open_run,
    read_metadata,
    write_metadata,
)
from srt.records import Problem
from srt.sampling import Sampler, SamplingSettings, choose_backend, open_sampler
from srt.sampling.transformers_sampler import TransformersSampler
from srt.verifiers import open_grader

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
        self.validation = validation
        self.output_dir = output_dir
        self.options = kl_options(knobs)
        self.order = ProblemOrder(len(train.problems), knobs.num_prompts_per_step, knobs.seed)
        self.total_steps = self.order.total_steps(knobs.max_num_steps, knobs.max_num_epochs)
        self.updates_per_step = knobs.num_prompts_per_step // knobs.train_global_batch_size

    def run(self) -> None:
        self._claim_folder()
        if (self.output_dir / "student" / CHECKPOINT_METADATA).is_file():
            print(f"self-distillation is complete: {self.output_dir / 'student'}")
            return
        self._open()
        with open_grader(self.knobs) as self.grader:
            with progress(self.total_steps, "step", initial=self.first_step) as bar:
                for step in range(self.first_step, self.total_steps):
                    figures = self._step(step)
                    figures |= self._validate(step)
                    self._synchronise_teacher(step + 1)
                    self._report(step, figures, bar)
                    self._checkpoint(step + 1)
        self._finish()

    # The algorithm --------------------------------------------------------------------------------------

    def _step(self, step: int) -> dict[str, float]:
        """Sample, grade, build both rows, score, update."""
        seconds: dict[str, float] = {}
        problems = [self.train.problems[index] for index in self.order.step(step)]
        with timed(seconds, "rollouts"):
            rollouts = self._rollouts(problems, "train", step)
        pairs = [build_pair(rollout, self.layout, self.max_teacher_tokens) for rollout in rollouts]
        pairs = [pair for pair in pairs if self._enters_loss(pair)]
        metrics, grad_norms = StepMetrics(), []
        samples = []
        size = self.knobs.train_global_batch_size
        for start in range(0, len(pairs), size):
            grad_norm, scored = self._update(pairs[start : start + size], metrics, seconds)
            grad_norms.append(grad_norm)
            samples += scored
        if not grad_norms:
            raise UserError(
                f"step {step}: no response enters the loss ({len(rollouts)} of {len(problems)} were graded); look "
                f"into {self.set_aside.path}, raise MAX_TOTAL_SEQUENCE_LENGTH or MAX_TEACHER_TOKENS, or let "
                "responses that were cut off take part (INCLUDE_TRUNCATED=1)"
            )
        if step % self.knobs.log_samples_period == 0:
            # Those of the first problems; the first of `samples` would always be the shortest of the step.
            first = pairs[:LOGGED_SAMPLES]
            self._log_samples(step, [sample for sample in samples if any(sample[0] is pair for pair in first)])
        return {
            **rollout_figures(rollouts),
            **metrics.means(),
            "loss": metrics.means()["kl"],
            "grad_norm": sum(grad_norms) / len(grad_norms),
            "lr": self.scheduler.get_last_lr()[0],
            "rollouts": len(rollouts),
            "trained_responses": len(pairs),
            "trained_tokens": metrics.tokens["kl"],
            "shortened_for_teacher": sum(len(pair.targets) < len(pair.rollout.y) for pair in pairs),
            "set_aside": len(problems) - len(rollouts),
            "seconds": {name: round(value, 4) for name, value in seconds.items()},
        }

    def _update(
        self, pairs: list[Pair], metrics: StepMetrics, seconds: dict[str, float]
    ) -> tuple[float, list[tuple[Pair, list[float]]]]:
        """One optimizer step; the gradient's norm before clipping, and each pair with its per-token KL."""
        denominator = sum(len(pair.targets) for pair in pairs)
        scored = []
        self.optimizer.zero_grad(set_to_none=True)
        for batch in micro_batches(pairs, self.knobs.tokens_per_micro_batch):
            with timed(seconds, "teacher"), torch.no_grad():
                teacher_hidden = predicting_hidden(self.teacher, [p.teacher for p in batch], self.pad_id)
            with timed(seconds, "student"):
                output = self._kl(batch, teacher_hidden, 1 / denominator)
                output.loss.backward()
            metrics.add(batch, output)
            sizes = [len(pair.targets) for pair in batch]
            scored += [
                (pair, part.tolist()) for pair, part in zip(batch, output.token_kl.split(sizes), strict=True)
            ]
        with timed(seconds, "update"):
            grad_norm = float(
                torch.nn.utils.clip_grad_norm_(
                    self.student.parameters(), self.knobs.max_grad_norm or torch.inf
                )
            )
            if not math.isfinite(grad_norm):
                raise UserError(
                    f"the gradient's norm is {grad_norm}: the update was not made, and the newest checkpoint is "
                    "from before; a lower LR in a new OUTPUT_DIR is the usual remedy"
                )
            self.optimizer.step()
            self.scheduler.step()
        return grad_norm, scored

    def _kl(self, batch: list[Pair], teacher_hidden: torch.Tensor, weight: float) -> KLOutput:
        student_hidden = predicting_hidden(self.student, [pair.student for pair in batch], self.pad_id)  # (T, H)
        student_head, student_bias = head(self.student)  # (V, H)
        teacher_head, teacher_bias = head(self.teacher)
        targets = torch.tensor([token for pair in batch for token in pair.targets], device=student_hidden.device)
        return exact_kl(
            student_hidden.to(student_head.dtype),
            student_head,
            teacher_hidden.to(teacher_head.dtype),
            teacher_head,
            student_hidden.new_full((len(targets),), weight, dtype=torch.float32),
            options=self.options,
            targets=targets,
            student_bias=student_bias,
            teacher_bias=teacher_bias,
            # Heads may be padded beyond the tokenizer, each model's differently.
            vocab_size=min(len(student_head), len(teacher_head)),
        )

    def _enters_loss(self, pair: Pair) -> bool:
        truncated = pair.rollout.finish_reason == "length"
        return bool(pair.targets) and (self.knobs.include_truncated or not truncated)

    def _rollouts(self, problems: list[Problem], purpose: str, step: int) -> list[Rollout]:
        with on_policy(self.sampler, self.student):
            return sample_and_grade(
                problems,
                purpose,
                step,
                self.layout,
                self.sampler,
                self.grader,
                self.max_total_tokens,
                self.knobs.seed,
                self.set_aside,
            )

    def _validate(self, step: int) -> dict[str, float]:
        """avg@k on the validation problems, after every VAL_PERIOD steps and at the end."""
        period, finished_steps = self.knobs.val_period, step + 1
        if self.validation is None or (finished_steps % period and finished_steps != self.total_steps):
            return {}
        repeated = [p for p in self.validation.problems for _ in range(self.knobs.val_num_samples)]
        rollouts = self._rollouts(repeated, "validation", step)
        if not rollouts:
            print(f"warning, step {step}: every validation sample was set aside; see {self.set_aside.path}")
            return {}
        figures = rollout_figures(rollouts)
        return {"val_avg_at_k": figures["reward"], "val_response_tokens": figures["response_tokens"]}

    def _synchronise_teacher(self, finished_steps: int) -> None:
        period = self.knobs.teacher_sync_steps
        if period and finished_steps % period == 0:
            self.teacher.load_state_dict(self.student.state_dict())  # casts to the teacher's dtype
            self.teacher_was_synced = True

    # Start, logs, end -----------------------------------------------------------------------------------

    def _claim_folder(self) -> None:
        """Raises UserError when the output folder holds a run with other settings."""
        knobs = self.knobs
        knobs_identity = {k: v for k, v in asdict(knobs).items() if k not in NOT_IDENTITY}
        identity = knobs_identity | {
            "student_fingerprint": model_fingerprint(knobs.student_model),
            "teacher_fingerprint": model_fingerprint(knobs.teacher_model),
            "dataset_fingerprint": self.train.fingerprint,
            "control_phrases": self.layout.phrases.as_dict(),
            "prompt": self.layout.prompt.as_dict(),
        }
        open_run(self.output_dir, identity, asdict(knobs))

    def _open(self) -> None:
        """Fresh start, or everything as the newest checkpoint left it."""
        knobs = self.knobs
        self.max_total_tokens = within_context(
            "MAX_TOTAL_SEQUENCE_LENGTH", knobs.max_total_sequence_length, knobs.student_model
        )
        self.max_teacher_tokens = within_context(
            "MAX_TEACHER_TOKENS", knobs.max_teacher_tokens, knobs.teacher_model
        )
        checkpoint = newest_checkpoint(self.output_dir)
        state = read_state(checkpoint) if checkpoint else {"step": 0, "teacher_was_synced": False}
        self.first_step = state["step"]
        self.teacher_was_synced = state["teacher_was_synced"]
        if checkpoint:
            print(f"continuing after step {self.first_step} from {checkpoint}")

        # fp32 weights under bf16 autocast: bf16 weights would lose updates at a learning rate of 5e-6.
        self.student = load_model(str(checkpoint / "student") if checkpoint else knobs.student_model, "float32")
        teacher_path = str(checkpoint / "teacher") if self.teacher_was_synced else knobs.teacher_model
        self.teacher = load_model(teacher_path, "auto").eval().requires_grad_(False)
        check_head(self.student, knobs.student_model)
        check_head(self.teacher, knobs.teacher_model)
        if knobs.gradient_checkpointing:
            self.student.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        self.student.train()
        self.optimizer = torch.optim.AdamW(
            self.student.parameters(),
            lr=knobs.lr,
            betas=(knobs.adam_beta1, knobs.adam_beta2),
            weight_decay=knobs.weight_decay,
        )
        self.scheduler = get_scheduler(
            knobs.lr_schedule, self.optimizer, knobs.warmup_steps, self.total_steps * self.updates_per_step
        )
        if checkpoint:
            load_optimizer(checkpoint, self.optimizer, self.scheduler, self.student.device)

        tokenizer = self.layout.tokenizer
        self.pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else self.layout.eot_ids[0]
        self.sampler = self._open_sampler()
        self.metrics_log = MetricsLog(self.output_dir, self.first_step, knobs.report_to)
        self.samples_log = open_step_log(self.output_dir / "samples.jsonl", self.first_step)
        self.set_aside = open_step_log(self.output_dir / "set_aside.jsonl", self.first_step)
        self.health = Health()
        for figures in self.metrics_log.earlier:
            self.health.check(figures)  # its warnings were given then
        self.started = time.monotonic()

    def _open_sampler(self) -> Sampler:
        knobs = self.knobs
        sampling = SamplingSettings(knobs.temperature, knobs.top_p, tuple(self.layout.eot_ids))
        if choose_backend(knobs.sampler) == "transformers":
            return TransformersSampler(self.student, self.pad_id, sampling, knobs.sampler_batch)
        return open_sampler(
            "vllm",
            knobs.student_model,
            sampling,
            max_model_len=self.max_total_tokens,
            max_batch=knobs.sampler_batch,
            memory_utilization=knobs.gpu_memory_utilization,
            can_sleep=True,
        )

    def _report(self, step: int, figures: dict[str, Any], bar: Any) -> None:
        self.metrics_log.write(step, figures)
        kl_r0, kl_r1 = (figures.get(name, math.nan) for name in ("kl_r0", "kl_r1"))
        bar.set_postfix_str(
            f"reward {figures['reward']:.1%}, KL {figures['kl']:.4f} (r0 {kl_r0:.4f}, r1 {kl_r1:.4f}), "
            f"{figures['response_tokens']:.0f} tokens",
            refresh=False,
        )
        bar.update(1)
        for warning in self.health.check(figures):
            bar.write(f"warning, step {step}: {warning}")
        if "val_avg_at_k" in figures:
            bar.write(
                f"step {step + 1}: validation avg@{self.knobs.val_num_samples} {figures['val_avg_at_k']:.1%}, "
                f"{figures['val_response_tokens']:.0f} tokens"
            )

    def _log_samples(self, step: int, samples: list[tuple[Pair, list[float]]]) -> None:
        """A few responses with the KL of each of their tokens: where the teacher disagrees."""
        for pair, token_kl in samples:
            tokens = [self.layout.tokenizer.decode([token]) for token in pair.targets]
            self.samples_log.append(
                {
                    "step": step,
                    "id": pair.rollout.problem.id,
                    "x": pair.rollout.problem.x,
                    "r": pair.rollout.r,
                    "p_r": self.layout.phrases.text(pair.rollout.r),
                    "tokens": tokens,
                    "kl": [round(value, 5) for value in token_kl],
                }
            )

    def _checkpoint(self, finished_steps: int) -> None:
        if finished_steps % self.knobs.save_period == 0 or finished_steps == self.total_steps:
            save_checkpoint(
                self.output_dir,
                finished_steps,
                self.student,
                self.teacher if self.teacher_was_synced else None,
                self.optimizer,
                self.scheduler,
                self.knobs.keep_checkpoints,
            )

    def _finish(self) -> None:
        """Write the SD-Zero model as an ordinary Hugging Face folder, in the SRT model's precision."""
        final = self.output_dir / "student"
        temporary = self.output_dir / ".student.tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        self.student.to(stored_dtype(self.knobs.student_model)).save_pretrained(temporary)
        self.layout.tokenizer.save_pretrained(temporary)
        write_metadata(
            temporary,
            {
                "base_model": (read_metadata(self.knobs.student_model) or {}).get(
                    "base_model", self.knobs.student_model
                ),
                "srt_model": self.knobs.student_model,
                "mode": self.knobs.mode,
                "stage": "sd_zero",
                "control_phrases": self.layout.phrases.as_dict(),
                "prompt": self.layout.prompt.as_dict(),
                "data_fingerprint": self.train.fingerprint,
            },
        )
        self.sampler.close()
        self.metrics_log.close()
        self.samples_log.close()
        self.set_aside.close()
        result = {
            "steps": self.total_steps,
            "seconds": round(time.monotonic() - self.started, 1),
            "student": str(final),
        }
        close_run(self.output_dir, result)
        os.replace(temporary, final)  # comes last: where this folder is, the run is complete
        print_summary("Self-distillation", result | {"metrics": self.output_dir / "metrics.jsonl"})


def within_context(knob: str, tokens: int, model_path: str) -> int:
    """`tokens`, or as many as the model takes, with a line that says so."""
    limit = context_limit(model_path)
    if tokens > limit:
        print(f"{knob}: {limit} tokens instead of {tokens}, since {model_path} takes no more")
    return min(tokens, limit)


@contextlib.contextmanager
def timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Adds the block's wall-clock seconds; waits for the GPU, so that its work counts where it was asked for."""
    started = time.monotonic()
    yield
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    seconds[name] = seconds.get(name, 0.0) + time.monotonic() - started
