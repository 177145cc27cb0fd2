"""NeMo-RL's policy workers on CPUs: what test_nemo_engine.py puts in the place of GPUs, and of vLLM.

Ray, its actors, FSDP2 (over gloo), NeMo-RL's worker, checkpoints and environment are the real ones. NeMo-RL speaks of
"cuda" in many places; here it means the CPU.
"""

import functools
from pathlib import Path

import ray
import torch

torch.cuda.synchronize = lambda *_: None
torch.distributed.init_process_group = functools.partial(torch.distributed.init_process_group)
_real_init_process_group = torch.distributed.init_process_group
_real_init_device_mesh = torch.distributed.device_mesh.init_device_mesh
torch.distributed.init_process_group = lambda backend: _real_init_process_group(backend="gloo")
torch.distributed.device_mesh.init_device_mesh = lambda device, *rest, **kw: _real_init_device_mesh("cpu", *rest, **kw)

from nemo_rl.models.policy.workers import dtensor_policy_worker  # noqa: E402

from opsd.nemo_rl import worker  # noqa: E402


def cpu_state_dict(state, pin_memory=False):
    return {name: dtensor_policy_worker.to_local_if_dtensor(value).clone() for name, value in state}


dtensor_policy_worker.get_cpu_state_dict = worker.get_cpu_state_dict = cpu_state_dict


class CpuWorkerImpl(worker.DistillationWorkerImpl):
    def move_to_device(self, model, device):
        return model

    def move_optimizer_to_device(self, device):
        pass


@ray.remote
class CpuWorker(CpuWorkerImpl):
    pass


class Generation:
    """In the place of vLLM: transformers on the student's weights as they are after a refresh."""

    def finish_generation(self):
        self.sampler = None

    def prepare_refit_info(self, info):
        assert info

    def shutdown(self):
        pass


def refresh(folder: Path, policy, generation, colocated_inference):
    """In the place of refit_policy_generation."""
    from srt.models import load_model

    policy.run_all_workers_single_data("write_student", like=generation.like, dtype=torch.float32, folder=str(folder))
    generation.model = load_model(str(folder), "float32")
