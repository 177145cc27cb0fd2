"""How many processes train, and starting them with `accelerate launch`.

One process trains in the command's own process. Several are started by accelerate on each machine; on a Slurm
cluster, with one task a machine (srun --ntasks-per-node=1 bash scripts/sft.sh), they form one training.
"""

import ctypes
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from srt.common.errors import UserError
from srt.contract.paths import PHASE1

WORKER_ERROR = "SD_ZERO_WORKER_ERROR"  # the file in which the first worker leaves a sentence for the launcher
FSDP2 = {  # what accelerate reads
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
}


@dataclass(frozen=True)
class Processes:
    """`here`: processes on this machine; `machines`, `machine`: how many there are, and which one this is."""

    here: int
    machines: int = 1
    machine: int = 0
    address: str = "127.0.0.1"
    port: int = 0

    @property
    def total(self) -> int:
        return self.here * self.machines


def find_processes(
    num_processes: int | None, master_port: int | None, environment: Mapping[str, str] = os.environ
) -> Processes:
    """NUM_PROCESSES on every machine, else one for each visible GPU, else one.

    Raises UserError for more processes than GPUs, and for Slurm tasks that cannot be made sense of.
    """
    gpus = torch.cuda.device_count()
    here = num_processes or max(gpus, 1)
    if gpus and here > gpus:
        raise UserError(f"NUM_PROCESSES={here}: only {gpus} GPU{'s are' if gpus > 1 else ' is'} visible")
    # Within srun these two say what was started; in a batch script alone, nothing was started elsewhere.
    machines = int(environment.get("SLURM_STEP_NUM_NODES", 1))
    if "MASTER_ADDR" in environment:
        machines = int(environment.get("SLURM_NNODES", machines))
    tasks = int(environment.get("SLURM_STEP_NUM_TASKS", machines))
    if tasks > machines:
        raise UserError(
            f"Slurm started {tasks} tasks on {machines} machine(s); SFT starts the processes of a machine itself: "
            "use srun --ntasks-per-node=1"
        )
    if machines == 1:
        return Processes(here, port=master_port or _free_port())
    return Processes(
        here,
        machines,
        int(environment.get("SLURM_NODEID", environment.get("SLURM_PROCID", 0))),
        environment.get("MASTER_ADDR") or _first_host(environment),
        master_port or 20000 + int(environment.get("SLURM_JOB_ID", 0)) % 20000,  # all machines must agree on it
    )


def launch_command(processes: Processes, worker_arguments: list[str], on_gpu: bool) -> list[str]:
    """`accelerate launch`; without GPUs, the launcher that it calls, as it would start CPU processes with MPI."""
    worker = ["--module", "srt.sft.worker", *worker_arguments]
    if on_gpu:
        return [
            *(sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"),
            *(f"--num_processes={processes.total}", f"--num_machines={processes.machines}"),
            *(f"--machine_rank={processes.machine}", f"--main_process_ip={processes.address}"),
            *(f"--main_process_port={processes.port}", "--mixed_precision=no", "--dynamo_backend=no"),
            *worker,
        ]
    return [
        *(sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={processes.here}"),
        *(f"--nnodes={processes.machines}", f"--node_rank={processes.machine}"),
        *(f"--master_addr={processes.address}", f"--master_port={processes.port}"),
        *worker,
    ]


def launch(processes: Processes, prepared: Path) -> None:
    """Train with several processes, which read what `prepared` holds; returns when they are done.

    Raises UserError with the first worker's sentence, or when a worker fails.
    """
    error_file = prepared.with_suffix(".error")
    error_file.unlink(missing_ok=True)
    path = f"{PHASE1}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    environment = os.environ | {"PYTHONPATH": path, WORKER_ERROR: str(error_file)}
    environment.setdefault("OMP_NUM_THREADS", "1")
    workers = subprocess.Popen(
        launch_command(processes, [str(prepared)], torch.cuda.is_available()),
        env=environment,
        preexec_fn=die_with_parent,
    )
    try:
        code = workers.wait()
    except KeyboardInterrupt:
        workers.wait()  # Ctrl-C went to all of them
        raise
    if code:
        if error_file.is_file():
            raise UserError(error_file.read_text(encoding="utf-8"))
        raise UserError(f"a training process ended with code {code}; its error stands above")


def shard_alone() -> None:
    """Make this process a group of one that trains like one of several."""
    alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
    os.environ.update(FSDP2 | alone | {"MASTER_PORT": str(_free_port())})


def die_with_parent() -> None:
    """A command that is killed leaves no processes behind that hold a GPU, on Linux."""
    if sys.platform == "linux":
        parent_death_signal = 1  # PR_SET_PDEATHSIG
        ctypes.CDLL(None).prctl(parent_death_signal, signal.SIGKILL)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _first_host(environment: Mapping[str, str]) -> str:
    nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST", "")
    try:
        hosts = subprocess.run(["scontrol", "show", "hostnames", nodes], capture_output=True, text=True)
    except FileNotFoundError:
        raise UserError("several machines: set MASTER_ADDR to the first one's address") from None
    return hosts.stdout.split()[0]
