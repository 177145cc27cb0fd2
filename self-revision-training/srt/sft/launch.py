"""How many processes train, and launching them with `accelerate launch`.

A single process trains in the command itself. Several are launched by accelerate on each machine. On a Slurm
cluster, with one task per machine (srun --ntasks-per-node=1 bash scripts/sft.sh), the processes of all machines
train together.
"""

import atexit
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import torch

from srt.common.entry_point import Terminated
from srt.common.errors import UserError
from srt.common.machine import Machine
from srt.common.parent_death import die_with_parent
from srt.contract.paths import PHASE1

WORKER_ERROR = "SD_ZERO_WORKER_ERROR"  # path of the file in which a process reports its error to the launcher
FSDP2 = {  # environment variables of accelerate
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
}


@dataclass(frozen=True)
class Processes:
    """The training processes, the same number on every machine; rank 0 listens on `address`:`port`."""

    per_machine: int
    machines: int = 1
    machine_rank: int = 0
    address: str = "127.0.0.1"
    port: int = 0

    @property
    def total(self) -> int:
        return self.per_machine * self.machines


def find_processes(
    num_processes: int | None,
    master_port: int | None,
    environment: Mapping[str, str] = os.environ,
    stated: Machine | None = None,
) -> Processes:
    """NUM_PROCESSES per machine; by default one per visible GPU, or a single one without GPUs.

    `stated`: the machine of PLAN_FOR.
    Raises UserError for more processes than GPUs, and for several Slurm tasks on one machine.
    """
    gpus = stated.gpus if stated else torch.cuda.device_count()
    per_machine = num_processes or max(gpus, 1)
    if gpus and per_machine > gpus:
        raise UserError(f"NUM_PROCESSES={per_machine}: only {gpus} GPU{'s are' if gpus > 1 else ' is'} visible")
    if stated:
        return Processes(per_machine, stated.machines)
    # srun sets SLURM_STEP_*; a batch script without srun runs on one machine, however many were allocated.
    machines = int(environment.get("SLURM_STEP_NUM_NODES", 1))
    if "MASTER_ADDR" in environment:
        machines = int(environment.get("SLURM_NNODES", machines))
    tasks = int(environment.get("SLURM_STEP_NUM_TASKS", machines))
    if tasks > machines:
        raise UserError(
            f"Slurm started {tasks} tasks on {machines} machine(s), but SFT launches the processes of each "
            "machine itself: use srun --ntasks-per-node=1"
        )
    if machines == 1 and master_port:
        _check_port(master_port)
    if machines == 1:
        return Processes(per_machine, port=master_port or _free_port())
    return Processes(
        per_machine,
        machines,
        int(environment.get("SLURM_NODEID", environment.get("SLURM_PROCID", 0))),
        environment.get("MASTER_ADDR") or _first_host(environment),
        master_port or 20000 + int(environment.get("SLURM_JOB_ID", 0)) % 20000,  # the same on all machines
    )


def launch_command(processes: Processes, worker_arguments: list[str], on_gpu: bool) -> list[str]:
    """`accelerate launch`, or torchrun without GPUs, since accelerate would launch CPU processes with MPI."""
    worker = ["--module", "srt.sft.worker", *worker_arguments]
    if on_gpu:
        return [
            *(sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"),
            *(f"--num_processes={processes.total}", f"--num_machines={processes.machines}"),
            *(f"--machine_rank={processes.machine_rank}", f"--main_process_ip={processes.address}"),
            *(f"--main_process_port={processes.port}", "--mixed_precision=no", "--dynamo_backend=no"),
            *worker,
        ]
    return [
        *(sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={processes.per_machine}"),
        *(f"--nnodes={processes.machines}", f"--node_rank={processes.machine_rank}"),
        *(f"--master_addr={processes.address}", f"--master_port={processes.port}"),
        *worker,
    ]


def launch(processes: Processes, plan_path: Path) -> None:
    """Train with several processes, which read the TrainingPlan at `plan_path`; returns when they are done.

    Raises UserError with the message of the process that failed first, or if none leaves one.
    """
    error_file = plan_path.with_suffix(".error")
    error_file.unlink(missing_ok=True)
    path = f"{PHASE1}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    environment = os.environ | {"PYTHONPATH": path, WORKER_ERROR: str(error_file)}
    environment.setdefault("OMP_NUM_THREADS", "1")
    workers = subprocess.Popen(
        launch_command(processes, [str(plan_path)], torch.cuda.is_available()),
        env=environment,
        preexec_fn=die_with_parent,
    )
    try:
        code = workers.wait()
    except Terminated:  # which reached this process alone
        workers.kill()  # and with it the training processes (die_with_parent)
        workers.wait()
        raise
    except KeyboardInterrupt:
        workers.wait()  # Ctrl-C reached them as well
        raise
    if code:
        if error_file.is_file():
            raise UserError(error_file.read_text(encoding="utf-8"))
        raise UserError(f"a training process exited with code {code}; see its error above")


def shard_alone() -> None:
    """Set the environment for FSDP2 on this process alone (world size 1)."""
    world = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
    os.environ.update(FSDP2 | world | {"MASTER_PORT": str(_free_port())})


def leave_process_group() -> None:
    """Destroy this process's group, if it has one."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def end_training_process() -> NoReturn:
    """The last thing of a training process that has succeeded: leave its group, run its exit handlers, exit.

    Python's finalization is skipped. Gloo's threads outlive a destroyed group to which something still refers
    (a module sharded by FSDP does); finalization then aborts about every fourth process (pytorch/pytorch#190489).
    """
    leave_process_group()
    atexit._run_exitfuncs()  # loggers finish their runs there
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _check_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise UserError(
                f"MASTER_PORT={port} cannot be used ({error.strerror}); choose another one, or leave it unset for "
                "a free one"
            ) from None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _first_host(environment: Mapping[str, str]) -> str:
    nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST", "")
    try:
        hosts = subprocess.run(["scontrol", "show", "hostnames", nodes], capture_output=True, text=True)
    except FileNotFoundError:
        raise UserError("training on several machines: set MASTER_ADDR to the address of the first one") from None
    if not hosts.stdout.split():
        reason = " ".join(hosts.stderr.split()) or f"exit code {hosts.returncode}"
        raise UserError(
            f"training on several machines: Slurm's scontrol named none ({reason}); set MASTER_ADDR to the "
            "address of the first one"
        )
    return hosts.stdout.split()[0]
