"""Run by test_engine.py: the knobs' run with the NeMo-RL engine, on FAKE_GPUS CPU workers of a node.

With RAY_ADDRESS it joins a cluster, whose nodes claim to have these GPUs.
"""

import functools
import os
import sys
import tempfile
from pathlib import Path


def main(argv: list[str]) -> None:
    from srt.common.ray_auth import protect_own_cluster

    own_cluster = not os.environ.get("RAY_ADDRESS")
    if own_cluster:
        protect_own_cluster()
    import ray
    import torch

    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    gpus = int(os.environ["FAKE_GPUS"])
    torch.cuda.device_count = lambda: gpus
    if own_cluster:
        ray.init = functools.partial(ray.init, num_gpus=gpus)

    from opsd import distill, select_engine
    from opsd.nemo_rl.driver import runtime

    runtime.prepare()
    import nemo_on_cpu
    from nemo_rl.distributed.ray_actor_environment_registry import ACTOR_ENVIRONMENT_REGISTRY

    from opsd.nemo_rl.driver import worker_group

    ACTOR_ENVIRONMENT_REGISTRY["nemo_on_cpu.CpuWorker"] = sys.executable
    select_engine.NEEDED = ("ray",)  # vLLM is replaced
    folder = Path(tempfile.mkdtemp())
    worker_group.WORKERS = {"dtensor": "nemo_on_cpu.CpuWorker"}
    worker_group.open_generation = lambda cluster, config: nemo_on_cpu.Generation(config, folder)
    worker_group.refit_policy_generation = nemo_on_cpu.refit
    worker_group.connect = lambda *_: None  # NCCL's
    policy_config = worker_group.policy_config
    worker_group.policy_config = lambda *settings: policy_config(*settings) | {"precision": "float32"}
    distill.distill(argv)


if __name__ == "__main__":
    from srt.common.entry_point import run_entry_point

    run_entry_point(main)
