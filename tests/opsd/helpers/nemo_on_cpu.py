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
from opsd.nemo_rl.worker.sampling import SamplingWorker  # noqa: E402
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


@ray.remote(num_cpus=0)
class CpuSampler(SamplingWorker):
    """In the place of a vLLM engine: transformers, as in the local engine."""

    def wake_up(self, folder: str, pad_id: int, eot_ids: list[int]) -> None:
        config = SamplingConfig(1.0, 1.0, tuple(eot_ids))
        self.sampler = Unmeasured(load_model(folder, "float32"), pad_id, config, 256)


class Unmeasured(TransformersSampler):
    def reset_metrics(self) -> None:
        pass


class CpuSamplers:
    """NeMo-RL's worker group, as far as it is used."""

    dp_size = 2

    def __init__(self) -> None:
        self.workers = [CpuSampler.remote() for _ in range(self.dp_size)]

    def get_dp_leader_worker_idx(self, shard: int) -> int:
        return shard

    def run_single_worker_single_data(self, method_name: str, worker_idx: int, **arguments: Any) -> Any:
        return getattr(self.workers[worker_idx], method_name).remote(**arguments)

    def shutdown(self, force: bool) -> None:
        assert force
        for sampler in self.workers:
            ray.kill(sampler)


class Generation:
    """In the place of the vLLM engines: two samplers of the student as it was at the last refresh."""

    def __init__(self, config: dict[str, Any], folder: Path):
        self.like = config["model_name"]
        self.tokens = {"pad_id": config["_pad_token_id"], "eot_ids": config["stop_token_ids"]}
        self.colocated = config["colocated"]["enabled"]
        self.folder = folder
        self.worker_group = CpuSamplers()

    def refresh(self, policy: Any) -> None:
        policy.offload_before_refit()
        policy.run_all_workers_single_data(
            "export_student", like=self.like, dtype=torch.float32, folder=str(self.folder)
        )
        policy.offload_after_refit()
        ray.get([worker.wake_up.remote(str(self.folder), **self.tokens) for worker in self.worker_group.workers])

    def prepare_refit_info(self, info: dict[str, Any]) -> None:
        assert "lm_head.weight" in info

    def finish_generation(self) -> None:
        pass

    def shutdown(self) -> bool:
        return True


def refit(policy: Any, generation: Generation, colocated_inference: bool) -> None:
    assert colocated_inference == generation.colocated
    generation.refresh(policy)
