"""NeMo-RL's DTensor worker with the distillation step: one process for each GPU that trains."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray
import torch
from accelerate import init_empty_weights
from nemo_rl.models.dtensor.parallelize import _parallelize_model
from nemo_rl.models.policy.workers.dtensor_policy_worker import DTensorPolicyWorkerImpl, get_cpu_state_dict
from nemo_rl.utils.native_checkpoint import load_checkpoint, save_checkpoint
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict
from transformers import AutoModelForCausalLM

from opsd.cpu_offload import PinnedCpuCopies
from opsd.determinism import policy_mode
from opsd.nemo_rl.worker.dtensor_step import DTensorStep
from opsd.nemo_rl.worker.hf_export import save_hf_model
from opsd.nemo_rl.worker.swap_weights import local_shard, shards, swap_weights
from srt.common.dropout import turn_off_dropout
from srt.common.models import load_model, load_model_config
from srt.common.packed_attention import PACKED
from srt.common.packing import set_attention
from srt.common.remote_code import enforce_remote_code, remote_code_allowed
from srt.common.rope import fix_rope

enforce_remote_code()  # NeMo-RL's worker would run code that comes with the model

TEACHER_WEIGHTS = "weights"  # the folder inside a saved teacher's, in NeMo-RL's checkpoint format


class DistillationWorkerImpl(DTensorStep, DTensorPolicyWorkerImpl):
    """The teacher is NeMo-RL's reference model, the weights that the student had at the start, kept on the CPU and
    swapped in; or, when TEACHER_MODEL is another model, a second sharded model, on the GPU while it scores.

    The student is on the GPU, except while the sampler is awake.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        # On Hopper, cuDNN's attention gives NaN gradients for some lengths (srt/common/models.py).
        torch.backends.cuda.enable_cudnn_sdp(False)
        self._student_copies = PinnedCpuCopies()
        self._optimizer_copies = PinnedCpuCopies()
        self._teacher_copies = PinnedCpuCopies()
        self._own_teacher: Any = None
        super().__init__(*args, **kwargs)
        fix_rope(self.model, self.model.config.name_or_path)
        turn_off_dropout(self.model)

    # On and off the GPU, called by the driver under NeMo-RL's names ---------------------------------------

    def offload_before_refit(self) -> None:
        """Make room for the sampler, and have the weights at hand: after a validation they are not on the GPU."""
        self._optimizer_copies.offload(self._optimizer_state())
        torch.cuda.empty_cache()
        self._student_copies.onload(shards(self.model))

    def offload_after_refit(self) -> None:
        self._student_copies.offload(shards(self.model))
        torch.cuda.empty_cache()

    def prepare_for_lp_inference(self) -> None:
        """The weights alone, beside a sampler that may be awake."""
        self._student_copies.onload(shards(self.model))
        self.model.eval()

    def prepare_for_training(self) -> None:
        self._student_copies.onload(shards(self.model))
        self._optimizer_copies.onload(self._optimizer_state())
        policy_mode(self.model)

    def _optimizer_state(self) -> dict[str, torch.Tensor]:
        """Adam's moments by name; its step counts are on the CPU."""
        return {
            f"{index} {name}": local_shard(value)
            for index, state in enumerate(self.optimizer.state.values())
            for name, value in state.items()
            if value.device == self.model.device
        }

    def check_logits(self) -> None:
        """Raises UserError, before the first rollout, when either model's logits are not supported."""
        self.logit_transform(self.model)
        if self._own_teacher is not None:
            with self.teacher_swapped_in() as teacher:
                self.logit_transform(teacher)

    def pack(self) -> None:
        self.check_logits()  # of both models, before either has the attention for packing
        super().pack()
        if self._own_teacher is not None:
            set_attention(self._own_teacher, PACKED)

    # The teacher ----------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def teacher_swapped_in(self) -> Iterator[Any]:
        if self._own_teacher is None:
            with swap_weights(self.model, self.reference_model_state_dict, self._student_copies) as teacher:
                yield teacher
        else:
            self._teacher_copies.onload(shards(self._own_teacher))
            try:
                yield self._own_teacher
            finally:
                self._teacher_copies.offload(shards(self._own_teacher))

    def load_teacher(self, model_path: str) -> None:
        """A model other than the student: rank 0 broadcasts its weights into the ranks' shards, as NeMo-RL does.

        Raises UserError for a checkpoint that is damaged or lacks weights.
        """
        weights = load_model(model_path, "float32", "cpu").state_dict() if self.rank == 0 else {}
        with init_empty_weights():  # parameters only: buffers such as rotary tables are in no checkpoint
            teacher = AutoModelForCausalLM.from_config(
                load_model_config(model_path), dtype=torch.float32, trust_remote_code=remote_code_allowed()
            )
        teacher = _parallelize_model(
            teacher,
            self.dp_cp_mesh,
            self.tp_mesh,
            param_dtype=self.dtype,
            sequence_parallel=False,
            activation_checkpointing=False,
            cpu_offload=False,
            custom_parallel_plan=None,
        )
        set_model_state_dict(
            teacher, weights, options=StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
        )
        teacher.tie_weights()
        self._own_teacher = self.move_to_cuda(teacher.requires_grad_(False))
        fix_rope(self._own_teacher, model_path)
        turn_off_dropout(self._own_teacher)
        self._teacher_copies.offload(shards(self._own_teacher))

    def sync_teacher(self) -> None:
        """The student as it is now becomes the teacher."""
        self._own_teacher = None
        self.reference_model_state_dict = get_cpu_state_dict(self.model.state_dict().items(), pin_memory=True)

    def save_teacher(self, folder: str) -> None:
        """A synced teacher, in NeMo-RL's checkpoint format: a new policy would start with another one."""
        with torch.no_grad(), self.teacher_swapped_in() as teacher:
            save_checkpoint(teacher, str(Path(folder) / TEACHER_WEIGHTS))

    def restore_teacher(self, folder: str) -> None:
        """Load what save_teacher wrote; the student's weights stay."""
        with torch.no_grad(), swap_weights(self.model, self.reference_model_state_dict, self._student_copies):
            load_checkpoint(self.model, str(Path(folder) / TEACHER_WEIGHTS))
            self.reference_model_state_dict = get_cpu_state_dict(self.model.state_dict().items(), pin_memory=True)

    # Export ---------------------------------------------------------------------------------------------

    def export_student(self, like: str, dtype: torch.dtype, folder: str) -> None:
        """The student as a Hugging Face folder; all ranks gather, rank 0 writes."""
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        weights: dict[str, Any] = get_model_state_dict(self.model, options=options)
        if self.rank == 0:
            save_hf_model(weights, like, dtype, Path(folder))
        torch.distributed.barrier()


@ray.remote
class DistillationWorker(DistillationWorkerImpl):
    pass
