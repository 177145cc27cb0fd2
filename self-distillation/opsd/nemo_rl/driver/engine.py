"""ENGINE=nemo-rl: several GPUs and nodes.

The engine lives in the driver. On each GPU a policy worker holds its shard of the student, scores and updates, and
a vLLM worker samples while the policy worker sleeps; the verifier is a Ray actor.
"""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import ray
import torch
from nemo_rl.environments.utils import create_env

from opsd.checkpoint_names import changed_names
from opsd.engine import ScoredBatch, UpdateResult, require_finite, split_into_updates
from opsd.hidden_states import check_supported
from opsd.nemo_rl.driver import runtime
from opsd.nemo_rl.driver.config import cluster_shape
from opsd.nemo_rl.driver.generation import NemoGrader
from opsd.nemo_rl.driver.megatron_config import check_megatron, describe_layers
from opsd.nemo_rl.driver.worker_group import WorkerGroup
from opsd.packing import choose_packing
from opsd.pairs import SequencePair
from opsd.run import Run
from opsd.timing import report_start, span
from srt.common.errors import UserError
from srt.common.models import check_weights, count_parameters, load_model_config, model_without_weights
from srt.common.progress import heartbeat
from srt.contract import metrics as names
from srt.sampling.base import InterruptibleSampler


class NemoEngine:
    """See opsd.engine.Engine. Workers and Ray end with the engine, however it ends."""

    def __init__(self, run: Run):
        config = self.config = run.config
        output_dir = run.output_dir.resolve()  # workers have another working directory
        for model_path in dict.fromkeys((config.student_model, config.teacher_model)):
            # Only the model's class and config matter.
            model = model_without_weights(load_model_config(model_path))
            check_supported(model, model_path)
            if changed := changed_names(model):
                raise UserError(
                    f"ENGINE=nemo-rl: {model_path} has {len(changed)} weights that its checkpoint holds in "
                    f"another layout ({changed[0]}, for example; fused experts are stored one by one), which the "
                    "refresh of vLLM's weights does not convert; ENGINE=local supports such models"
                )
        check_weights(config.student_model)  # NeMo-RL makes up what is missing; a teacher's are ours to load
        model_config = load_model_config(config.student_model)
        if config.trainer_backend == "megatron":
            check_megatron(config, model_config)
            print(describe_layers(config))
            runtime.prepare_megatron(output_dir)
        packed = _choose_packing(run)
        shape = cluster_shape(config, torch.cuda.device_count(), model_config, count_parameters(model_config))
        print(f"{shape.describe()}; the workers take about two minutes to start")
        with contextlib.ExitStack() as resources, report_start():
            with span("Ray"):
                runtime.join_ray(config, shape.gpus + shape.rollout_gpus)
            resources.callback(ray.shutdown)
            self.grader = NemoGrader(create_env(runtime.ENVIRONMENT_NAME, {"grading": config}))
            with heartbeat("the workers are starting"):
                self.workers = WorkerGroup(run, shape, output_dir / "checkpoints", packed)
            resources.callback(self.workers.close)
            self._resources = resources.pop_all()
        self.start_step = self.workers.start_step

    @contextlib.contextmanager
    def sampling(self) -> Iterator[InterruptibleSampler]:
        with self.workers.sampling() as sampler:
            yield sampler

    def update(self, pairs: list[SequencePair]) -> UpdateResult:
        result = self.workers.update(split_into_updates(pairs, self.config.train_global_batch_size))
        require_finite(result.optimizer[names.GRAD_NORM])
        return result

    def score(self, pairs: list[SequencePair]) -> list[ScoredBatch]:
        return self.workers.score(pairs)

    def sync_teacher(self) -> None:
        self.workers.sync_teacher()

    def save_checkpoint(self, step: int) -> None:
        self.workers.save_checkpoint(step)

    def save_student(self, folder: Path) -> None:
        self.workers.export_student(folder.resolve())

    def export(self, folder: Path, saved: Path | None = None) -> None:
        if saved:
            shutil.copytree(saved, folder)
        else:
            self.workers.export_student(folder.resolve())

    def close(self) -> None:
        self._resources.close()


def _choose_packing(run: Run) -> bool:
    """By PACKING, where auto pads: what packing gains on GPUs was measured with ENGINE=local alone. Megatron packs
    with Transformer Engine's attention alone, which has never run here."""
    config = run.config
    if config.trainer_backend == "megatron":
        if config.packing != "0":
            print("padding instead of packing, because TRAINER_BACKEND=megatron does not pack")
        return False
    if config.packing == "auto":
        print(
            "padding instead of packing, because ENGINE=nemo-rl was not measured with packing on GPUs "
            "(PACKING=auto; PACKING=1 packs)"
        )
        return False
    return choose_packing((config.student_model, config.teacher_model), config.packing, run.longest_sequence)
