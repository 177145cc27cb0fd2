"""Phase 2 on several GPUs and nodes: on-policy self-distillation (arXiv:2604.12002, section 2.2) with NeMo-RL.

    L(theta) = E_x E_{y ~ pi_theta(. | x)} sum_t KL( pi_theta(. | x, y_<t) || pi_SRT(. | x, y, P_r, y_<t) )

This is the loop, in the driver. On each GPU a policy worker holds its shard of the student, scores and updates,
and a vLLM worker samples while that one sleeps; the verifier is a Ray actor.
"""

import contextlib
import math
import shutil
import time
from pathlib import Path
from typing import Any

import ray
import torch
from nemo_rl.environments.utils import create_env
from transformers import AutoConfig, AutoModelForCausalLM

from opsd.config import kl_config
from opsd.export import export_student
from opsd.hidden_states import check_causal, check_head
from opsd.local.optimizer_step import PairWithKL
from opsd.metrics import StepMetrics
from opsd.nemo_rl.driver import runtime
from opsd.nemo_rl.driver.config import cluster_shape, count_parameters
from opsd.nemo_rl.driver.generation import NemoGrader
from opsd.nemo_rl.driver.megatron_config import check_megatron
from opsd.nemo_rl.driver.worker_group import Trainer
from opsd.rollouts import RolloutWorker
from opsd.run import LOGGED_SAMPLES, Engine
from srt.common.console import print_summary, progress
from srt.common.errors import UserError


class NemoEngine(Engine):
    """One run in `output_dir`; `run()` starts it or continues it after the newest checkpoint."""

    def run(self) -> None:
        if rank := self.config.lora_rank:
            raise UserError(f"LORA_RANK={rank}: ENGINE=nemo-rl trains all weights; use ENGINE=local")
        self.output_dir = self.output_dir.resolve()  # workers have another working directory
        if not self._claim_folder():
            return
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
        with self._awake(seconds):
            rollouts = self.rollouts.sample(problems, "train", step, seconds)
        pairs = self._pairs(step, problems, rollouts)
        size = self.config.train_global_batch_size
        updates = [pairs[start : start + size] for start in range(0, len(pairs), size)]
        made = self.trainer.update(updates, kl_config(self.config), seconds)
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
        self.reports.responses(step, [PairWithKL(pair, token_kl[id(pair)]) for pair in pairs[:LOGGED_SAMPLES]])
        seconds["other"] = time.monotonic() - started - sum(seconds.values())
        return self._figures(problems, rollouts, pairs, metrics, made.figures, seconds)

    def _awake(self, seconds: dict[str, float]) -> contextlib.AbstractContextManager:
        return self.trainer.awake(seconds)

    def _validated(self) -> Trainer:
        return self.trainer

    def sync_teacher(self) -> None:
        self.trainer.sync_teacher()

    # Start and end --------------------------------------------------------------------------------------

    def _open(self) -> None:
        """Ray, the workers, and everything as the newest checkpoint left it."""
        config = self.config
        self._set_limits()
        model_config = AutoConfig.from_pretrained(config.student_model)
        for model_path in dict.fromkeys((config.student_model, config.teacher_model)):
            with torch.device("meta"):  # of the model only its kind is asked
                model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model_path))
            check_causal(model, model_path)
            check_head(model, model_path)
        if config.trainer_backend == "megatron":
            check_megatron(config, model_config)
            runtime.prepare_megatron(self.output_dir)
        shape = cluster_shape(config, torch.cuda.device_count(), model_config, count_parameters(model_config))
        print(f"{shape.describe()}; the workers take about two minutes to start")
        runtime.join_ray(config, shape.gpus)
        self.opened.callback(ray.shutdown)
        grader = NemoGrader(create_env(runtime.ENVIRONMENT_NAME, {"knobs": config}))
        self.trainer = Trainer(
            config,
            self.layout,
            shape,
            self.pad_id,
            self.max_model_len,
            self.total_updates,
            self.output_dir / "checkpoints",
        )
        self.opened.callback(self.trainer.close)
        self.finished_steps = self.trainer.first_step

        self._open_logs()
        self.rollouts = RolloutWorker(
            self.layout,
            self.trainer.sampler,
            grader,
            self.max_total_tokens,
            self.max_revision_tokens,
            config.seed,
            self.set_aside,
        )
        self.started = time.monotonic()

    def _save_checkpoint(self) -> None:
        self.trainer.checkpoint(self.finished_steps)

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

        export_student(self.output_dir, write_model, self.config, self.layout, self.train.fingerprint, results)
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
