"""The driver's hand on the GPUs: NeMo-RL's policy workers, and its vLLM engines beside them, as one student."""

import contextlib
import math
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nemo_rl.algorithms.grpo import refit_policy_generation
from nemo_rl.distributed.virtual_cluster import RayVirtualCluster
from nemo_rl.models.policy.lm_policy import Policy
from nemo_rl.utils.checkpoint import CheckpointManager

from opsd.config import DistillConfig
from opsd.kl import KLConfig, KLOutput
from opsd.nemo_rl.driver.config import ClusterShape, generation_config, policy_config
from opsd.nemo_rl.driver.generation import NemoSampler, open_generation
from opsd.nemo_rl.driver.runtime import WORKERS
from opsd.nemo_rl.micro_batches import deal, for_workers
from opsd.nemo_rl.worker.step import StepResult
from opsd.pairs import SequencePair
from opsd.timing import timed
from srt.common.models import stored_dtype
from srt.contract.layout import Layout

REPLICATED_AXES = ["context_parallel", "tensor_parallel", "pipeline_parallel"]
TEACHER = "teacher"


@dataclass(frozen=True)
class Step:
    """What came out of a step's updates. `scored`: micro-batches with their KL; `figures`: of the optimizer."""

    scored: list[tuple[list[SequencePair], KLOutput]]
    figures: dict[str, float]


class Trainer:
    """The student, its frozen teacher, optimizer and sampler, as the newest checkpoint in `folder` left them.

    `first_step`: steps that are finished. GPUs hold either the sampler (inside `awake`) or what trains.
    """

    def __init__(
        self,
        config: DistillConfig,
        layout: Layout,
        shape: ClusterShape,
        pad_id: int,
        max_model_len: int,
        total_updates: int,
        folder: Path,
    ):
        self.config = config
        self.shape = shape
        self.pad_id = pad_id
        self.checkpoints = CheckpointManager(
            {
                "enabled": True,
                "checkpoint_dir": str(folder),
                "metric_name": None,  # the newest ones stay
                "higher_is_better": True,
                "keep_top_k": config.keep_checkpoints,
                "save_optimizer": True,
                "save_period": config.save_period,
                "checkpoint_must_save_by": None,
            }
        )
        newest = self.checkpoints.get_latest_checkpoint_path()
        state = self.checkpoints.load_training_info(newest) or {"step": 0, "teacher_was_synced": False}
        self.first_step: int = state["step"]
        self.teacher_was_synced: bool = state["teacher_was_synced"]
        for torn in folder.glob("tmp_step_*"):  # of a run that was killed while it saved
            shutil.rmtree(torn)
        if newest:
            print(f"continuing after step {self.first_step} from {newest}")

        self.cluster = RayVirtualCluster(
            bundle_ct_per_node_list=[shape.gpus_per_node] * shape.num_nodes,
            num_gpus_per_node=shape.gpus_per_node,
            max_colocated_worker_groups=2,  # a policy worker and a vLLM worker on each GPU
            name="sd_zero",
        )
        generation = generation_config(config, shape, max_model_len, layout.eot_ids, pad_id)
        # vLLM first, while the GPUs are empty: it measures what is free.
        self.generation = open_generation(self.cluster, generation)
        self.generation.finish_generation()
        self.sampler = NemoSampler(self.generation, layout.eot_ids, pad_id)
        weights, optimizer = self.checkpoints.get_resume_paths(newest)
        self.policy = Policy(
            self.cluster,
            policy_config(config, shape, generation, total_updates),
            layout.tokenizer,
            name_prefix="student",
            weights_path=weights,
            optimizer_path=optimizer,
            init_reference_model=True,  # taken before a checkpoint is loaded: the model of the start
            worker_extension_cls_fqn=WORKERS[config.trainer_backend],
        )
        self.generation.prepare_refit_info(self.policy.prepare_refit_info())
        if self.teacher_was_synced:
            self.policy.run_all_workers_single_data("restore_teacher", folder=str(Path(newest) / TEACHER))
        elif config.teacher_model != config.student_model:
            self.policy.run_all_workers_single_data("load_teacher", model_path=config.teacher_model)

    @contextlib.contextmanager
    def awake(self, seconds: dict[str, float]) -> Iterator[NemoSampler]:
        """For the block, the sampler draws from the student as it is now."""
        with timed(seconds, "refresh"):
            refit_policy_generation(self.policy, self.generation, colocated_inference=True)
        yield self.sampler
        with timed(seconds, "refresh"):
            self.generation.finish_generation()

    def update(self, updates: list[list[SequencePair]], options: KLConfig, seconds: dict[str, float]) -> Step:
        """One optimizer step for each list of pairs. `grad_norm` is their mean; not finite: no update was made."""
        dealt = [deal(pairs, self.shape.data_parallel, self.config.tokens_per_micro_batch) for pairs in updates]
        by_update = [for_workers(update) for update in dealt]
        by_rank = [[update[rank] for update in by_update] for rank in range(self.shape.data_parallel)]
        with timed(seconds, "refresh"):
            self.policy.prepare_for_training()
        futures = self.policy.worker_group.run_all_workers_sharded_data(
            "distill",
            updates=by_rank,
            in_sharded_axes=["data_parallel"],
            replicate_on_axes=REPLICATED_AXES,
            output_is_replicated=REPLICATED_AXES,
            common_kwargs={"options": options, "grad_eps": self.config.kl_grad_eps, "pad_id": self.pad_id},
        )
        results: list[StepResult] = self.policy.worker_group.get_all_worker_results(futures)
        for name, value in results[0].seconds.items():
            seconds[name] = seconds.get(name, 0.0) + value
        norms = [update.grad_norm for update in results[0].updates]
        scored = [
            (batch, output)
            for rank, result in enumerate(results)
            for update, made in zip(dealt, result.updates, strict=False)
            for batch, output in zip(update[rank], made.outputs, strict=True)
            if batch
        ]
        return Step(
            scored,
            {
                "grad_norm": sum(norms) / len(norms) if all(map(math.isfinite, norms)) else math.nan,
                "lr": results[0].updates[-1].lr,
                "peak_memory_gib": round(max(result.peak_memory for result in results) / 2**30, 2),
            },
        )

    def sync_teacher(self) -> None:
        self.policy.prepare_for_training()  # a validation may have sent the student off the GPUs
        self.policy.run_all_workers_single_data("sync_teacher")
        self.teacher_was_synced = True

    def checkpoint(self, finished_steps: int) -> None:
        """A checkpoint to resume from; it gets its name when its last file is written."""
        self.policy.prepare_for_training()
        state = {"step": finished_steps, "teacher_was_synced": self.teacher_was_synced}
        folder = Path(self.checkpoints.init_tmp_checkpoint(finished_steps, state))
        self.policy.save_checkpoint(
            weights_path=str(folder / "policy" / "weights"), optimizer_path=str(folder / "policy" / "optimizer")
        )
        if self.teacher_was_synced:
            self.policy.run_all_workers_single_data("save_teacher", folder=str(folder / TEACHER))
        self.checkpoints.finalize_checkpoint(folder)

    def save(self, folder: Path) -> None:
        """The student as a Hugging Face folder, in the precision of the model it started from.

        The sampler may be awake: the weights alone come to the GPUs, and leave them again.
        """
        like = self.config.student_model
        self.policy.prepare_for_lp_inference()
        self.policy.run_all_workers_single_data(
            "write_student", like=like, dtype=stored_dtype(like), folder=str(folder)
        )
        self.policy.offload_after_refit()

    def close(self) -> None:
        self.sampler.close()
        self.policy.shutdown()
