"""NeMo-RL's own DTensor worker, which also says how much memory it took; for the stock arms."""

import ray
import torch
from nemo_rl.models.policy.workers.dtensor_policy_worker import DTensorPolicyWorkerImpl


class MeasuredWorkerImpl(DTensorPolicyWorkerImpl):
    def __init__(self, *args, **kwargs):
        torch.backends.cuda.enable_cudnn_sdp(False)  # as in ours
        super().__init__(*args, **kwargs)

    def peak_memory(self) -> int:
        """Bytes that torch held at most since reset_peak_memory_stats."""
        return torch.cuda.max_memory_allocated()


@ray.remote
class MeasuredWorker(MeasuredWorkerImpl):
    pass
