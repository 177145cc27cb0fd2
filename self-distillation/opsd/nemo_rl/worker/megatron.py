"""NeMo-RL's Megatron worker with the distillation step: one process for each GPU that trains.

On CPUs, with the layers of MEGATRON_LAYERS=local, it has made updates inside NeMo-RL's worker, with
Megatron-Bridge and their checkpoints. On GPUs it has run with Transformer Engine's layers and attention; with the
latter, gradients were the DTensor worker's with rows of 4 096 tokens, and not with 8 192 (megatron_layers.py).
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import opsd.nemo_rl.worker.without_transformer_engine  # noqa: F401 - before Megatron-Bridge

# isort: split
import ray
import torch
from megatron.bridge.training import initialize
from megatron.bridge.utils.instantiate_utils import register_allowed_target_prefix
from nemo_rl.models.policy.workers.megatron_policy_worker import MegatronPolicyWorkerImpl
from torch import Tensor

from opsd.cpu_offload import PinnedCpuCopies
from opsd.nemo_rl.worker.hf_export import save_hf_model
from opsd.nemo_rl.worker.megatron_layers import local_layers, te_layers
from opsd.nemo_rl.worker.megatron_step import MegatronStep
from opsd.nemo_rl.worker.swap_weights import shards, swap_weights, weights_only
from opsd.nemo_rl.worker.torch_adam import make_moments_for_loading, restore_counts
from srt.common.dropout import turn_off_dropout
from srt.common.remote_code import enforce_remote_code

enforce_remote_code()  # NeMo-RL's worker would run code that comes with the model


class MegatronDistillationWorkerImpl(MegatronStep, MegatronPolicyWorkerImpl):
    """The teacher is NeMo-RL's reference model, the weights that the student had at the start, kept on the CPU and
    swapped in. The swap writes into the buffers of bf16 weights that Megatron's DDP holds, and restores them bit
    for bit; the optimizer's fp32 master weights are separate and stay as they are.

    Expert parallelism is not used (megatron_config.py).
    """

    def __init__(self, *args: Any, **kwargs: Any):
        config, *others = args
        self._student_copies = PinnedCpuCopies()
        self._optimizer_copies = PinnedCpuCopies()
        # Helpers for Megatron's datasets, which are not used here. Its wheel ships them compiled, without a
        # Makefile: compiling them again would end the process.
        initialize.compile_helpers = lambda: None
        # NeMo-RL builds the model of it, and Megatron-Bridge notes its name beside the converted weights.
        local = config["megatron_cfg"]["transformer_impl"] == "local"
        self._transformer_layer_spec = local_layers if local else te_layers
        register_allowed_target_prefix(f"{local_layers.__module__}.")
        torch.backends.cuda.enable_cudnn_sdp(False)  # as in the other engines (srt/common/models.py)
        if config["megatron_cfg"]["context_parallel_size"] > 1:
            # NeMo-RL's own passes, which are not used, split packed rows only, and it insists on them.
            config = config | {"sequence_packing": config["sequence_packing"] | {"enabled": True}}
        if kwargs.get("optimizer_path"):
            make_moments_for_loading()
        with gpu_among_visible():
            super().__init__(*[config, *others], **kwargs)
        restore_counts(self.optimizer)
        turn_off_dropout(self.model)
        self.vocab_size = self.megatron_cfg.model.vocab_size
        self.schedule_increment = self.megatron_cfg.train.global_batch_size  # the schedule counts samples
        # MegatronStep reports a gradient that is not finite to the driver; Megatron would end the process.
        self.model.ddp_config.check_for_nan_in_grad = False
        self.reference_state_dict = self._pinned_copies(weights_only(self.reference_state_dict))
        self._master_weights = self._find_master_weights()

    # On and off the GPU, called by the driver under NeMo-RL's names ---------------------------------------

    def offload_before_refit(self) -> None:
        """Make room for the sampler, and have the weights at hand: after a validation they are not on the GPU."""
        self.move_model(self.model, "cpu", move_params=False)
        self.move_optimizer("cpu")
        torch.cuda.empty_cache()
        self.move_model(self.model, "cuda", move_grads=False)

    def offload_after_refit(self) -> None:
        self.move_model(self.model, "cpu")
        self.move_optimizer("cpu")
        torch.cuda.empty_cache()

    def prepare_for_lp_inference(self) -> None:
        """The weights alone, beside a sampler that may be awake."""
        self.move_model(self.model, "cuda", move_grads=False)
        self.model.eval()

    def move_model(self, model: Any, device: str, move_params: bool = True, move_grads: bool = True) -> Any:
        """Weights move through the pinned copies that the teacher's swap uses; gradients are dropped and come
        back as 0."""
        if move_params:
            (self._student_copies.onload if device == "cuda" else self._student_copies.offload)(shards(model))
        return super().move_model(model, device, move_params=False, move_grads=move_grads)

    def move_optimizer(self, device: str) -> None:
        """Master weights and Adam's moments."""
        state = {
            f"{index} {name}": value
            for index, (_, of_parameter) in enumerate(self.optimizer.state.items())
            for name, value in of_parameter.items()
            if isinstance(value, Tensor) and value.ndim  # counts of steps stay
        }
        state |= self._master_weights
        (self._optimizer_copies.onload if device == "cuda" else self._optimizer_copies.offload)(state)

    def _find_master_weights(self) -> dict[str, Tensor]:
        """Those that are the optimizer's parameters, as with torch's Adam. Transformer Engine's has them in its
        state, and its parameters are views of the model's."""
        model = {weight.untyped_storage().data_ptr() for weight in shards(self.model).values()}
        weights = [weight for group in self.optimizer.param_groups for weight in group["params"]]
        return {
            f"master weight {index}": weight
            for index, weight in enumerate(weights)
            if weight.untyped_storage().data_ptr() not in model
        }

    # The teacher ----------------------------------------------------------------------------------------

    def teacher_swapped_in(self) -> contextlib.AbstractContextManager[Any]:
        return swap_weights(self.model, self.reference_state_dict, self._student_copies)

    def sync_teacher(self) -> None:
        """The student as it is now becomes the teacher."""
        self.reference_state_dict = self._pinned_copies(shards(self.model))

    def _pinned_copies(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Copies in pinned memory."""
        pinned = next(self.model.parameters()).is_cuda
        return {
            name: torch.empty_like(weight, device="cpu", pin_memory=pinned).copy_(weight)
            for name, weight in weights.items()
        }

    def save_teacher(self, folder: str) -> None:
        """A synced teacher, as a Hugging Face folder: a run can resume from it on any number of GPUs."""
        with torch.no_grad(), self.teacher_swapped_in():
            self.export_student(self.cfg["model_name"], self.dtype, folder)

    def restore_teacher(self, folder: str) -> None:
        """Load what save_teacher wrote; the student's weights stay."""
        with torch.no_grad(), self.teacher_swapped_in():
            self.megatron_bridge.load_hf_weights([self.model], folder)
            self.sync_teacher()

    # Export ---------------------------------------------------------------------------------------------

    @torch.no_grad()
    def export_student(self, like: str, dtype: torch.dtype, folder: str) -> None:
        """The student as a Hugging Face folder: the bf16 weights it computes with, not their fp32 masters.

        Megatron-Bridge names and gathers them; all ranks take part, rank 0 writes.
        """
        weights = {}
        for name, weight in self.megatron_bridge.export_hf_weights([self.model], cpu=True, show_progress=False):
            if self.rank == 0:
                weights[name] = weight
        if self.rank == 0:
            save_hf_model(weights, like, dtype, Path(folder))
        torch.distributed.barrier()


@contextlib.contextmanager
def gpu_among_visible() -> Iterator[None]:
    """In the block, Ray names this worker's GPU by its place in CUDA_VISIBLE_DEVICES, not by its number.

    NeMo-RL takes the number for torch's index, of which there are only as many as visible GPUs: with
    CUDA_VISIBLE_DEVICES=6,7 there would be no GPU 6.
    """
    named = ray.get_gpu_ids
    if visible := os.environ.get("CUDA_VISIBLE_DEVICES"):
        numbers = visible.split(",")
        ray.get_gpu_ids = lambda: [numbers.index(str(gpu)) for gpu in named()]
    try:
        yield
    finally:
        ray.get_gpu_ids = named


@ray.remote
class MegatronDistillationWorker(MegatronDistillationWorkerImpl):
    pass
