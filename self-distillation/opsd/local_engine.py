"""Phase 2 on one machine: on-policy self-distillation (arXiv:2604.12002, section 2.2) with torch alone.

    L(theta) = E_x E_{y ~ pi_theta(. | x)} sum_t KL( pi_theta(. | x, y_<t) || pi_SRT(. | x, y, P_r, y_<t) )

The sum over tokens is divided by the number of tokens of the update, the one denominator: it changes the
gradient's length, which clipping and Adam undo, and not its direction.
"""

import contextlib
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
from opsd.metrics import MetricsLog, StepMetrics, rollout_figures
from opsd.models import autocast, check_head, head, predicting_hidden
from opsd.problems_order import ProblemOrder
from opsd.rollouts import sample_and_grade
from opsd.rows import Pair, Rollout, build_pair, micro_batches
from opsd.settings import NOT_IDENTITY, DistillKnobs, kl_options
from srt.console import print_summary, progress
from srt.errors import UserError
from srt.files import JsonlLog
from srt.layout import Layout
from srt.models import load_model, stored_dtype
from srt.problems import ProblemSet
from srt.provenance import close_run, model_fingerprint, open_run, read_metadata, write_metadata
from srt.sampling.base import SamplingSettings
from srt.sampling.transformers_sampler import TransformersSampler
from srt.verifiers.pool import Grader


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
        self._open()
        with Grader(self.knobs.grading_workers, self.knobs.grading_time_limit) as self.grader:
            with progress(self.total_steps, "step", initial=self.first_step) as bar:
                for step in range(self.first_step, self.total_steps):
                    figures = self._step(step)
                    figures |= self._validate(step + 1)
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
            rollouts = self._rollouts(problems, ("train", step))
        pairs = [build_pair(rollout, self.layout, self.knobs.max_teacher_tokens) for rollout in rollouts]
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
                f"into {self.set_aside.path}, or raise MAX_TOTAL_SEQUENCE_LENGTH"
            )
        if step % self.knobs.log_samples_period == 0:
            self._log_samples(step, samples[:4])
        return {
            **rollout_figures(rollouts),
            **metrics.means(),
            "loss": metrics.means()["kl"],
            "grad_norm": sum(grad_norms) / len(grad_norms),
            "lr": self.scheduler.get_last_lr()[0],
            "rollouts": len(rollouts),
            "trained_tokens": metrics.tokens["kl"],
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
            grad_norm = torch.nn.utils.clip_grad_norm_(
                self.student.parameters(), self.knobs.max_grad_norm or torch.inf
            )
            self.optimizer.step()
            self.scheduler.step()
        return float(grad_norm), scored

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

    def _rollouts(self, problems: list, identity: tuple[str | int, ...]) -> list[Rollout]:
        with autocast(self.student.device):
            return sample_and_grade(
                problems,
                identity,
                self.layout,
                self.sampler,
                self.grader,
                self.knobs.max_total_sequence_length,
                self.knobs.seed,
                self.set_aside,
            )

    def _validate(self, finished_steps: int) -> dict[str, float]:
        """avg@k on the validation problems, every VAL_PERIOD steps and at the end."""
        period = self.knobs.val_period
        if self.validation is None or (finished_steps % period and finished_steps != self.total_steps):
            return {}
        repeated = [p for p in self.validation.problems for _ in range(self.knobs.val_num_samples)]
        figures = rollout_figures(self._rollouts(repeated, ("validation", finished_steps)))
        return {"val_avg_at_k": figures["reward"], "val_response_tokens": figures["response_tokens"]}

    def _synchronise_teacher(self, finished_steps: int) -> None:
        period = self.knobs.teacher_sync_steps
        if period and finished_steps % period == 0:
            self.teacher.load_state_dict(self.student.state_dict())  # casts to the teacher's dtype
            self.teacher_was_synced = True

    # Start, logs, end -----------------------------------------------------------------------------------

    def _open(self) -> None:
        """Fresh start, or everything as the newest checkpoint left it."""
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
        sampling = SamplingSettings(knobs.temperature, knobs.top_p, tuple(self.layout.eot_ids))
        self.sampler = TransformersSampler(self.student, self.pad_id, sampling, knobs.sampler_batch)
        print("rollouts: transformers, with the weights in training")
        self.metrics_log = MetricsLog(self.output_dir, self.first_step, knobs.report_to)
        self.samples_log = JsonlLog(self.output_dir / "samples.jsonl")
        self.set_aside = JsonlLog(self.output_dir / "set_aside.jsonl")
        self.health = Health()
        self.started = time.monotonic()

    def _report(self, step: int, figures: dict[str, Any], bar: Any) -> None:
        self.metrics_log.write(step, figures)
        bar.set_postfix_str(
            f"reward {figures['reward']:.1%}, KL {figures['kl']:.4f} (r0 {figures.get('kl_r0', float('nan')):.4f}, "
            f"r1 {figures.get('kl_r1', float('nan')):.4f}), {figures['response_tokens']:.0f} tokens",
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
        shutil.rmtree(final, ignore_errors=True)
        os.replace(temporary, final)
        self.metrics_log.close()
        self.samples_log.close()
        self.set_aside.close()
        result = {
            "steps": self.total_steps,
            "seconds": round(time.monotonic() - self.started, 1),
            "student": str(final),
        }
        close_run(self.output_dir, result)
        print_summary("Self-distillation", result | {"metrics": self.output_dir / "metrics.jsonl"})


@contextlib.contextmanager
def timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Adds the block's wall-clock seconds; waits for the GPU, so that its work counts where it was asked for."""
    started = time.monotonic()
    yield
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    seconds[name] = seconds.get(name, 0.0) + time.monotonic() - started
