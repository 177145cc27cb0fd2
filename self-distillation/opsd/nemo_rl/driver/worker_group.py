"""Driver-side handle for the policy and vLLM workers: student, teacher, optimizer and sampler on all GPUs."""

import contextlib
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray
from nemo_rl.algorithms.grpo import refit_policy_generation
from nemo_rl.distributed.virtual_cluster import RayVirtualCluster
from nemo_rl.models.policy.lm_policy import Policy
from nemo_rl.utils.checkpoint import CheckpointManager

from opsd.config import DistillConfig, kl_config
from opsd.engine import START_STATE, ScoredBatch, UpdateResult
from opsd.kl import KLOutput
from opsd.loss_terms import loss_metrics
from opsd.memory import sampler_share
from opsd.nemo_rl.driver.config import ClusterShape, generation_config, policy_config
from opsd.nemo_rl.driver.generation import NemoSampler, open_generation
from opsd.nemo_rl.driver.lost_workers import end_workers, kill_workers, user_errors_of_workers
from opsd.nemo_rl.driver.runtime import WORKERS
from opsd.nemo_rl.micro_batches import RankUpdate, assign_micro_batches, rank_updates
from opsd.nemo_rl.worker.step import RankStepResult
from opsd.pairs import SequencePair
from opsd.run import Run
from opsd.timing import add_span, span
from srt.common.machine import this_machine
from srt.common.models import load_model_config, stored_dtype, vllm_overrides
from srt.contract import metrics as names

REPLICATED_AXES = ["context_parallel", "tensor_parallel", "pipeline_parallel"]
TEACHER = "teacher"  # the folder in a checkpoint


class WorkerGroup:
    """NeMo-RL's policy workers and, beside them, its vLLM engines, as the newest checkpoint in `folder` left them.

    `start_step`: finished steps. `packed`: the sequences of a forward pass share one row. The GPUs hold either the
    sampler (inside `sampling`) or what trains; with ROLLOUT_GPUS, each has its own.
    """

    def __init__(self, run: Run, shape: ClusterShape, folder: Path, packed: bool = False):
        config = self.config = run.config
        self.shape, self.packed = shape, packed
        self.width: int = load_model_config(config.student_model).get_text_config().hidden_size
        self.pad_id = run.pad_id
        self.checkpoints = CheckpointManager(
            {
                "enabled": True,
                "checkpoint_dir": str(folder),
                "metric_name": None,  # keeps the newest ones
                "higher_is_better": True,
                "keep_top_k": config.keep_checkpoints,
                "save_optimizer": True,
                "save_period": config.save_period,
                "checkpoint_must_save_by": None,
            }
        )
        newest = self.checkpoints.get_latest_checkpoint_path()
        state = self.checkpoints.load_training_info(newest) or START_STATE
        self.start_step: int = state["step"]
        self.teacher_was_synced: bool = state["teacher_was_synced"]
        for leftover in folder.glob("tmp_step_*"):  # of a run that was killed while it saved
            shutil.rmtree(leftover)
        if newest:
            print(f"continuing after step {self.start_step} from {newest}")

        with contextlib.ExitStack() as started:
            self._start_workers(run, newest, started)
            started.pop_all()  # now `close` ends them

    def _start_workers(self, run: Run, newest: str | None, started: contextlib.ExitStack) -> None:
        """`newest`: the checkpoint to continue from. `started`: for what must end where a later part fails."""
        config, shape = self.config, self.shape
        self.cluster = RayVirtualCluster(
            bundle_ct_per_node_list=[shape.gpus_per_node] * shape.num_nodes,
            num_gpus_per_node=shape.gpus_per_node,
            max_colocated_worker_groups=1 if shape.rollout_gpus else 2,  # a policy worker, a vLLM worker
            name="sd_zero",
        )
        samplers = self.cluster
        if shape.rollout_gpus:
            gpus = shape.rollout_gpus
            samplers = RayVirtualCluster(
                [gpus], max_colocated_worker_groups=1, num_gpus_per_node=gpus, name="rollouts"
            )
        overrides = vllm_overrides(config.student_model)
        share = sampler_share(run, this_machine())
        eot_ids = run.layout.eot_ids
        generation = generation_config(config, shape, run.max_model_len, eot_ids, run.pad_id, share, overrides)
        # vLLM first, while the GPUs are empty: it measures the memory that is free.
        with span("sampler"):
            self.generation = open_generation(samplers, generation)
            started.callback(kill_workers, self.generation)
            self.generation.finish_generation()
        self.sampler = NemoSampler(self.generation)
        weights, optimizer = self.checkpoints.get_resume_paths(newest)
        with span("trainer"):
            self.policy = Policy(
                self.cluster,
                policy_config(config, shape, generation, run.total_updates),
                run.layout.tokenizer,
                name_prefix="student",
                weights_path=weights,
                optimizer_path=optimizer,
                # Taken before a checkpoint is loaded: the model that the run started with.
                init_reference_model=True,
                worker_extension_cls_fqn=WORKERS[config.trainer_backend],
            )
            started.callback(kill_workers, self.policy)
            if shape.rollout_gpus:
                connect(self.policy, self.generation, self.cluster, shape)
            self.generation.prepare_refit_info(self.policy.prepare_refit_info())
            with user_errors_of_workers():
                self._prepare_models(newest)

    def _prepare_models(self, newest: str | None) -> None:
        """The teacher, and what is found out about both models before the first rollout."""
        if newest and self.teacher_was_synced:
            self.policy.run_all_workers_single_data("restore_teacher", folder=str(Path(newest) / TEACHER))
        elif self.config.teacher_model != self.config.student_model:
            self.policy.run_all_workers_single_data("load_teacher", model_path=self.config.teacher_model)
        if self.config.trainer_backend == "dtensor":  # for megatron, check_megatron has read the config
            self.policy.run_all_workers_single_data("check_logits")
        if self.packed:
            self.policy.run_all_workers_single_data("pack")

    @contextlib.contextmanager
    def sampling(self) -> Iterator[NemoSampler]:
        with span(names.WEIGHT_SYNC):
            if self.shape.rollout_gpus:
                self.policy.prepare_for_lp_inference()  # an export may have moved the student off the GPUs
            refit_policy_generation(self.policy, self.generation, colocated_inference=not self.shape.rollout_gpus)
        self.sampler.reset_metrics()
        yield self.sampler
        with span(names.WEIGHT_SYNC):
            self.generation.finish_generation()

    def update(self, updates: list[list[SequencePair]]) -> UpdateResult:
        """One optimizer step for each list of pairs. `grad_norm` is NaN when one was not finite and not made."""
        assigned = [self._assign(pairs) for pairs in updates]
        by_update = [rank_updates(update) for update in assigned]
        by_rank = [[update[rank] for update in by_update] for rank in range(self.shape.data_parallel)]
        with span(names.WEIGHT_SYNC):
            self.policy.prepare_for_training()
        results = make_updates(self.policy, self.config, by_rank, self.pad_id)
        for name, seconds in results[0].seconds.items():
            add_span(name, seconds)
        norms = [update.grad_norm for update in results[0].updates]
        scored = _scored(assigned, results)
        return UpdateResult(
            scored,
            {
                names.GRAD_NORM: sum(norms) / len(norms) if all(map(math.isfinite, norms)) else math.nan,
                names.LR: results[0].updates[-1].lr,
                names.PEAK_MEMORY_GIB: round(max(result.peak_memory for result in results) / 2**30, 2),
                **loss_metrics(self.config, scored),
            },
        )

    def score(self, pairs: list[SequencePair]) -> list[ScoredBatch]:
        assigned = self._assign(pairs)
        self.policy.prepare_for_lp_inference()  # a validation may have moved the student off the GPUs
        futures = self.policy.worker_group.run_all_workers_sharded_data(
            "score",
            update=rank_updates(assigned),
            in_sharded_axes=["data_parallel"],
            replicate_on_axes=REPLICATED_AXES,
            output_is_replicated=REPLICATED_AXES,
            common_kwargs={"kl_config": kl_config(self.config), "pad_id": self.pad_id},
        )
        results: list[list[KLOutput | None]] = self.policy.worker_group.get_all_worker_results(futures)
        return [
            (batch, output)
            for batches, outputs in zip(assigned, results, strict=True)
            for batch, output in zip(batches, outputs, strict=True)
            if output is not None
        ]

    def _assign(self, pairs: list[SequencePair]) -> list[list[list[SequencePair]]]:
        """The micro-batches of each rank."""
        tokens = self.config.tokens_per_micro_batch
        return assign_micro_batches(pairs, self.shape.data_parallel, tokens, self.width, self.packed)

    def sync_teacher(self) -> None:
        self.policy.prepare_for_training()  # a validation may have moved the student off the GPUs
        self.policy.run_all_workers_single_data("sync_teacher")
        self.teacher_was_synced = True

    def save_checkpoint(self, step: int) -> None:
        """A checkpoint to resume from; it gets its final name after its last file is written."""
        self.policy.prepare_for_training()
        state = {"step": step, "teacher_was_synced": self.teacher_was_synced}
        folder = Path(self.checkpoints.init_tmp_checkpoint(step, state))
        self.policy.save_checkpoint(
            weights_path=str(folder / "policy" / "weights"), optimizer_path=str(folder / "policy" / "optimizer")
        )
        if self.teacher_was_synced:
            self.policy.run_all_workers_single_data("save_teacher", folder=str(folder / TEACHER))
        self.checkpoints.finalize_checkpoint(folder)

    def export_student(self, folder: Path) -> None:
        """The student as a Hugging Face folder, in the precision of the model it started from.

        The sampler may be awake: only the weights are brought to the GPUs, and moved off them again.
        """
        like = self.config.student_model
        self.policy.prepare_for_lp_inference()
        self.policy.run_all_workers_single_data(
            "export_student", like=like, dtype=stored_dtype(like), folder=str(folder)
        )
        self.policy.offload_after_refit()

    def close(self) -> None:
        self.sampler.close()
        end_workers(self.policy)


def make_updates(
    policy: Policy, config: DistillConfig, updates: list[list[RankUpdate]], pad_id: int
) -> list[RankStepResult]:
    """The training part of a step on all workers. `updates`: those of each data-parallel rank, as the results."""
    futures = policy.worker_group.run_all_workers_sharded_data(
        "distill",
        updates=updates,
        in_sharded_axes=["data_parallel"],
        replicate_on_axes=REPLICATED_AXES,
        output_is_replicated=REPLICATED_AXES,
        common_kwargs={"kl_config": kl_config(config), "grad_eps": config.kl_grad_eps, "pad_id": pad_id},
    )
    return policy.worker_group.get_all_worker_results(futures)


def connect(policy: Policy, generation: Any, cluster: RayVirtualCluster, shape: ClusterShape) -> None:
    """The group of processes through which the policy's rank 0 broadcasts weights to vLLM on other GPUs."""
    ip, port = cluster.get_master_address_and_port()
    trainers = shape.gpus
    world = trainers + shape.rollout_gpus
    ray.get(
        policy.init_collective(ip, port, world, train_world_size=trainers)
        + generation.init_collective(ip, port, world, train_world_size=trainers)
    )


def _scored(assigned: list[list[list[list[SequencePair]]]], results: list[RankStepResult]) -> list[ScoredBatch]:
    """The micro-batches that ranks computed, each with its KL. assigned: per update, per rank."""
    return [
        (batch, output)
        for rank, result in enumerate(results)
        for update, made in zip(assigned, result.updates, strict=False)
        for batch, output in zip(update[rank], made.outputs, strict=True)
        if output is not None
    ]
