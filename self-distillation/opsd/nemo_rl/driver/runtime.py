"""What NeMo-RL needs around it: its source and ours on every worker's path, Ray, actors in this environment."""

import importlib.util
import os
import sys
import time
from pathlib import Path

from opsd.config import DistillConfig
from opsd.select_engine import nemo_rl_source, put_nemo_rl_on_path
from srt.common.errors import UserError
from srt.contract.paths import PHASE1, PHASE2

WORKERS = {  # by TRAINER_BACKEND
    "dtensor": "opsd.nemo_rl.worker.dtensor.DistillationWorker",
    "megatron": "opsd.nemo_rl.worker.megatron.MegatronDistillationWorker",
}
SAMPLER_WORKER = "opsd.nemo_rl.worker.vllm.SeededVllmWorker"
ENVIRONMENT = "opsd.nemo_rl.driver.verifier_environment.VerifierEnvironment"
ENVIRONMENT_NAME = "sd_zero"

# NeMo-RL imports these for loggers and audio data that are not used here.
STUBS = Path(__file__).parents[1] / "stubs"
OBJECT_STORE_BYTES = 4 * 2**30  # far above a step's rollouts and figures; Ray by itself takes a third of memory
NODES_JOIN_SECONDS = 60.0  # in which the cluster's GPUs must be there


def prepare() -> None:
    """Before anything else that imports NeMo-RL."""
    prepare_path()
    prepare_registry()


def prepare_path() -> None:
    """NeMo-RL and this repository, here and, by PYTHONPATH, in every worker; stand-ins for what is missing."""
    put_nemo_rl_on_path()
    source = nemo_rl_source()
    ours = [str(PHASE1), str(PHASE2)] + ([str(source)] if source else [])
    missing = [
        str(folder)
        for folder in sorted(STUBS.iterdir())
        if folder.is_dir() and importlib.util.find_spec(folder.name) is None
    ]
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    entries = [entry for entry in dict.fromkeys([*ours, *given, *missing]) if entry]
    os.environ["PYTHONPATH"] = os.pathsep.join(entries)
    sys.path += [entry for entry in entries if entry not in sys.path]


def prepare_registry() -> None:
    """Every actor runs with this Python: NeMo-RL would make an environment for each kind of worker."""
    from nemo_rl.distributed.ray_actor_environment_registry import ACTOR_ENVIRONMENT_REGISTRY
    from nemo_rl.distributed.virtual_cluster import PY_EXECUTABLES
    from nemo_rl.environments.utils import ENV_REGISTRY, register_env

    for name in (*ACTOR_ENVIRONMENT_REGISTRY, *WORKERS.values(), SAMPLER_WORKER, ENVIRONMENT):
        ACTOR_ENVIRONMENT_REGISTRY[name] = PY_EXECUTABLES.SYSTEM
    if ENVIRONMENT_NAME not in ENV_REGISTRY:
        register_env(ENVIRONMENT_NAME, ENVIRONMENT)


def prepare_megatron(output_dir: Path) -> None:
    """Before Ray is joined, whose workers get this environment.

    Megatron trains a converted copy of the student, which goes beside the run's checkpoints: in NeMo-RL's own
    place, other runs would write to it.
    """
    import pynvml  # torch would open the GPU

    os.environ["NRL_MEGATRON_CHECKPOINT_DIR"] = str(output_dir / "megatron")
    # NeMo-RL asks for it; only builds of CUDA code read it.
    pynvml.nvmlInit()
    capability = pynvml.nvmlDeviceGetCudaComputeCapability(pynvml.nvmlDeviceGetHandleByIndex(0))
    os.environ.setdefault("TORCH_CUDA_ARCH_LIST", ".".join(map(str, capability)))


def join_ray(config: DistillConfig, gpus: int) -> None:
    """The running cluster when there are several nodes or RAY_ADDRESS is set, else one of this process's own.

    NeMo-RL's own start-up asks for a dashboard and takes whatever cluster it finds on the machine. `gpus`: of all
    nodes. Raises UserError when there is no cluster, or one with fewer.
    """
    import ray

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "INFO" if config.worker_logs else "WARNING")
    common = {
        "runtime_env": {"env_vars": dict(os.environ)},
        "log_to_driver": config.worker_logs,
        "include_dashboard": False,
    }
    if config.num_nodes > 1 or os.environ.get("RAY_ADDRESS"):
        try:
            ray.init(address="auto", **common)
        except ConnectionError as error:
            raise UserError(
                f"NUM_NODES={config.num_nodes}: no Ray cluster was found from here ({error}); start one on the "
                "nodes first, as examples/slurm_distill.sh does"
            ) from error
    else:
        # A GPU's bundle asks for one CPU for each of the two workers on it, and the verifier for one: a count, no
        # reservation, so a machine with fewer cores may say that it has them.
        cpus = max(os.cpu_count() or 1, 2 * gpus + 1)
        ray.init(address="local", num_cpus=cpus, object_store_memory=OBJECT_STORE_BYTES, **common)
    deadline = time.monotonic() + NODES_JOIN_SECONDS
    while (found := int(ray.cluster_resources().get("GPU", 0))) < gpus and time.monotonic() < deadline:
        time.sleep(1.0)
    if found < gpus:
        ray.shutdown()
        raise UserError(f"the Ray cluster has {found} GPU(s) and {gpus} are asked for (NUM_NODES, GPUS_PER_NODE)")
