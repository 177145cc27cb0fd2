"""NeMo-RL's policy workers on CPUs: what run_nemo_on_cpu.py puts in the place of GPUs, and of vLLM.

Ray, its actors, FSDP2 and tensor parallelism (over gloo), NeMo-RL's worker, checkpoints and environment are the
real ones. NeMo-RL says "cuda" in many places; here it means the CPU.
"""

from pathlib import Path
from typing import Any

import ray
import torch
from torch.distributed import device_mesh

torch.cuda.synchronize = lambda *_: None
torch.Tensor.cuda = lambda tensor, *_: tensor
init_process_group, init_device_mesh = torch.distributed.init_process_group, device_mesh.init_device_mesh
torch.distributed.init_process_group = lambda backend: init_process_group(backend="gloo")
device_mesh.init_device_mesh = lambda device, *rest, **names: init_device_mesh("cpu", *rest, **names)

from nemo_rl.models.policy.workers import dtensor_policy_worker  # noqa: E402

from opsd.nemo_rl.worker import dtensor as worker  # noqa: E402
from srt.common.models import load_model  # noqa: E402
from srt.sampling.base import SamplingConfig  # noqa: E402
from srt.sampling.transformers import TransformersSampler  # noqa: E402


def without_pinned_memory(state: Any, pin_memory: bool = False) -> dict[str, torch.Tensor]:
    return {name: dtensor_policy_worker.to_local_if_dtensor(tensor).clone() for name, tensor in state}


dtensor_policy_worker.get_cpu_state_dict = worker.get_cpu_state_dict = without_pinned_memory


class CpuWorkerImpl(worker.DistillationWorkerImpl):
    def __init__(self, *args, **kwargs):
        torch.backends.cuda.enable_cudnn_sdp(True)  # torch's default, whose gradients are NaN at times
        super().__init__(*args, **kwargs)
        assert not torch.backends.cuda.cudnn_sdp_enabled()

    def move_to_device(self, model, device):
        return model


@ray.remote
class CpuWorker(CpuWorkerImpl):
    pass


class Generation:
    """In the place of the vLLM engines: the student as it was at the last refresh, in the driver."""

    def __init__(self, config: dict[str, Any], folder: Path):
        self.like = config["model_name"]
        self.colocated = config["colocated"]["enabled"]
        self.folder = folder
        self.model = None

    def refresh(self, policy: Any) -> None:
        policy.offload_before_refit()
        policy.run_all_workers_single_data(
            "export_student", like=self.like, dtype=torch.float32, folder=str(self.folder)
        )
        policy.offload_after_refit()
        self.model = load_model(str(self.folder), "float32")

    def prepare_refit_info(self, info: dict[str, Any]) -> None:
        assert "lm_head.weight" in info

    def finish_generation(self) -> None:
        self.model = None


def refit(policy: Any, generation: Generation, colocated_inference: bool) -> None:
    assert colocated_inference == generation.colocated
    generation.refresh(policy)


class Sampler:
    """In the place of NemoSampler: transformers, as in the local engine."""

    def __init__(self, generation: Generation, eot_ids: list[int], pad_id: int):
        self.generation = generation
        self.settings = SamplingConfig(1.0, 1.0, tuple(eot_ids))
        self.pad_id = pad_id
        self.inner = None

    def submit(self, key: Any, request: Any) -> None:
        if self.inner is None or self.inner.model is not self.generation.model:
            self.inner = TransformersSampler(self.generation.model, self.pad_id, self.settings, 256)
        self.inner.submit(key, request)

    def poll(self, enough: int | None = None) -> Any:
        return self.inner.poll(enough)

    def interrupt(self) -> list[Any]:
        return self.inner.interrupt() if self.inner else []

    def metrics(self) -> dict[str, float]:
        return {}

    def close(self) -> None:
        pass
