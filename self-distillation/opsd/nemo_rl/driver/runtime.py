"""What NeMo-RL needs around it: its source and ours on every worker's path, Ray, actors that use this Python."""

import importlib.util
import os
import sys
import time
from pathlib import Path

from opsd.config import RunConfig
from opsd.select_engine import nemo_rl_source, put_nemo_rl_on_path
from srt.common.errors import UserError
from srt.common.ray_auth import TOKEN, protect_own_cluster, require_token
from srt.common.remote_code import enforce_remote_code
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
OBJECT_STORE_BYTES = 4 * 2**30  # far more than a step's rollouts need; Ray's default is a third of memory
NODES_JOIN_SECONDS = 60.0  # within which the cluster's GPUs must have joined


def prepare_ray(config: RunConfig) -> None:
    """To be called before anything imports Ray. Raises UserError for a running cluster that cannot be joined."""
    if knob := cluster_knob(config):
        require_token(knob)
    else:
        protect_own_cluster()


def prepare() -> None:
    """To be called before anything imports NeMo-RL."""
    prepare_path()
    prepare_registry()
    enforce_remote_code()


def cluster_knob(config: RunConfig) -> str | None:
    """The setting by which the run joins a Ray cluster that is running already; None: it starts its own."""
    address = os.environ.get("RAY_ADDRESS")
    if config.num_nodes > 1:
        return f"NUM_NODES={config.num_nodes}"
    return f"RAY_ADDRESS={address}" if address else None


def prepare_path() -> None:
    """NeMo-RL and this repository, here and, through PYTHONPATH, in every worker; stubs for what is missing."""
    put_nemo_rl_on_path()
    source = nemo_rl_source()
    ours = [str(PHASE1), str(PHASE2)] + ([str(source)] if source else [])
    missing = [
        str(folder)
        for folder in sorted(STUBS.iterdir())
        if folder.is_dir() and importlib.util.find_spec(folder.name) is None
    ]
    existing = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    entries = [entry for entry in dict.fromkeys([*ours, *existing, *missing]) if entry]
    os.environ["PYTHONPATH"] = os.pathsep.join(entries)
    sys.path += [entry for entry in entries if entry not in sys.path]


def prepare_registry() -> None:
    """Every actor runs with this Python: NeMo-RL would create an environment for each kind of worker."""
    from nemo_rl.distributed.ray_actor_environment_registry import ACTOR_ENVIRONMENT_REGISTRY
    from nemo_rl.distributed.virtual_cluster import PY_EXECUTABLES
    from nemo_rl.environments.utils import ENV_REGISTRY, register_env

    for name in (*ACTOR_ENVIRONMENT_REGISTRY, *WORKERS.values(), SAMPLER_WORKER, ENVIRONMENT):
        ACTOR_ENVIRONMENT_REGISTRY[name] = PY_EXECUTABLES.SYSTEM
    if ENVIRONMENT_NAME not in ENV_REGISTRY:
        register_env(ENVIRONMENT_NAME, ENVIRONMENT)


def prepare_megatron(output_dir: Path) -> None:
    """To be called before Ray is joined: its workers inherit this environment.

    Megatron trains a converted copy of the student, which is kept beside the run's checkpoints: other runs would
    write to NeMo-RL's default location.
    """
    import pynvml  # torch would open the GPU

    os.environ["NRL_MEGATRON_CHECKPOINT_DIR"] = str(output_dir / "megatron")
    # NeMo-RL requires it; only builds of CUDA code read it.
    pynvml.nvmlInit()
    capability = pynvml.nvmlDeviceGetCudaComputeCapability(pynvml.nvmlDeviceGetHandleByIndex(0))
    os.environ.setdefault("TORCH_CUDA_ARCH_LIST", ".".join(map(str, capability)))


def join_ray(config: RunConfig, gpus: int, workers_per_gpu: int = 2) -> None:
    """Join the running cluster when there are several nodes or RAY_ADDRESS is set, else start one for this
    process.

    NeMo-RL's own start-up requires a dashboard and joins whatever cluster it finds on the machine. `gpus`: on all
    nodes. Raises UserError when there is no cluster, or one with fewer.
    """
    import ray

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "INFO" if config.worker_logs else "WARNING")
    knob = cluster_knob(config)
    if knob:
        # Each node's Ray knows which GPUs are its own. This process's variable, which NeMo-RL and the environment
        # below give to all workers, would send those of other nodes to the GPUs of these numbers.
        os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    common = {
        # Ray's processes have the token from their own environment; this one is written into Ray's logs.
        "runtime_env": {"env_vars": {name: value for name, value in os.environ.items() if name != TOKEN}},
        "log_to_driver": config.worker_logs,
        "include_dashboard": False,
    }
    if knob:
        try:
            ray.init(address="auto", **common)
        except ConnectionError as error:
            raise UserError(
                f"{knob}: no Ray cluster was found ({error}); start one on the nodes first, as "
                "examples/slurm_distill.sh does"
            ) from error
    else:
        # A GPU's bundle requests one CPU for each of its workers, and the verifier one. Ray only counts CPUs, but
        # starts as many idle processes, by default one for each core, which delays those that are needed.
        cpus = workers_per_gpu * gpus + 1
        ray.init(address="local", num_cpus=cpus, object_store_memory=OBJECT_STORE_BYTES, **common)
    deadline = time.monotonic() + NODES_JOIN_SECONDS
    while (available := int(ray.cluster_resources().get("GPU", 0))) < gpus and time.monotonic() < deadline:
        time.sleep(1.0)
    if available < gpus:
        ray.shutdown()
        raise UserError(
            f"the Ray cluster has {available} GPU(s) and {gpus} are requested (NUM_NODES, GPUS_PER_NODE)"
        )
