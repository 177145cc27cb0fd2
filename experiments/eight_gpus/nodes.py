"""distill.sh on two Ray "nodes" of one machine, one of which is killed in the second step; then it is continued.

    OUTPUT_DIR=... CUDA_VISIBLE_DEVICES=0,1,2,3 python -m experiments.eight_gpus.nodes     and other knobs

Each node has half of the GPUs and is started as examples/slurm_distill.sh does it, with a token of its own.
"""

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from experiments.eight_gpus.kill import DISTILL, FIGURES, continued_after
from experiments.eight_gpus.processes import finished_steps, kill, last_line, require, start, wait_for_step
from srt.common.entry_point import run_entry_point
from srt.common.files import write_json
from srt.common.name_values import show_help

ADDRESS = "127.0.0.1"
COMMON = ("--disable-usage-stats", "--block")
NODE_SECONDS = 180.0  # within which a node must have started


class Cluster:
    """A Ray head and one more node, each with its GPUs; Ray asks for a token that is in a file of this user."""

    def __init__(
        self,
        gpus: list[list[str]],
        folder: Path,
        env: dict[str, str],
        cpus: int | None = None,
        second_address: str | None = None,
    ):
        """`gpus`: of the head and of the other node. `cpus`: that each claims to have; None: the machine's.

        `second_address`: of the other node, such as 127.0.0.2, for who tells nodes apart by it; None: the same.
        """
        self.gpus, self.folder, self.cpus, self.second_address = gpus, folder, cpus, second_address
        self.port = _free_port()
        self.token = Path(tempfile.mkdtemp(prefix="sd_zero_ray_")) / "token"  # mode 700
        self.token.write_text(secrets.token_hex(32))
        self.env = env | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(self.token)}
        self.nodes: dict[int, subprocess.Popen] = {}

    @property
    def driver_env(self) -> dict[str, str]:
        """For distill.sh, which runs on the head's machine and joins the cluster."""
        shape = {"NUM_NODES": "2", "GPUS_PER_NODE": str(len(self.gpus[0]))}
        return self._visible(0) | shape | {"RAY_ADDRESS": f"{ADDRESS}:{self.port}"}

    def start_node(self, index: int) -> None:
        """0 is the head, which comes first."""
        options = [f"--num-gpus={len(self.gpus[index])}", *COMMON]
        options += [f"--num-cpus={self.cpus}"] if self.cpus else []
        if index == 0:
            options += ["--head", f"--port={self.port}", "--include-dashboard=false"]
        else:
            options += [f"--address={ADDRESS}:{self.port}"]
            options += [f"--node-ip-address={self.second_address}"] if self.second_address else []
        log = self.folder / f"node{index}.log"
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", *options]
        self.nodes[index] = start(command, self._visible(index), log)
        deadline = time.monotonic() + NODE_SECONDS
        while "Ray runtime started" not in log.read_text("utf-8", errors="replace"):
            require(self.nodes[index].poll() is None, f"node {index} did not start: {last_line(log)}")
            require(
                time.monotonic() < deadline, f"node {index} did not start within {NODE_SECONDS:.0f} s; see {log}"
            )
            time.sleep(0.2)

    def kill_node(self, index: int) -> None:
        kill(self.nodes.pop(index))

    def close(self) -> None:
        for index in sorted(self.nodes, reverse=True):
            self.kill_node(index)
        shutil.rmtree(self.token.parent, ignore_errors=True)

    def _visible(self, index: int) -> dict[str, str]:
        return self.env | {"CUDA_VISIBLE_DEVICES": ",".join(self.gpus[index])}


def lose_a_node_and_continue(command: list[str], cluster: Cluster, output: Path, delay: float) -> dict[str, Any]:
    """`delay`: seconds after the first step's checkpoint. Raises UserError unless the run ends with one sentence
    and exit code 2, and the same command finishes it once the node is back."""
    logs = [output.parent / f"{name}.log" for name in ("lost_node", "continued")]
    with ExitStack() as running:
        running.callback(cluster.close)
        cluster.start_node(0)
        cluster.start_node(1)
        process = start(command, cluster.driver_env, logs[0])
        running.callback(kill, process)
        wait_for_step(process, output, 1, logs[0])
        time.sleep(delay)
        cluster.kill_node(1)
        killed = time.monotonic()
        code, last = process.wait(), last_line(logs[0])
        noticed = time.monotonic() - killed
        require(code == 2 and last.startswith("error: "), f"it ended with code {code} and: {last}")
        text = logs[0].read_text("utf-8", errors="replace")
        require("Traceback" not in text, f"{logs[0]} has a traceback")
        cluster.start_node(1)
        process = start(command, cluster.driver_env, logs[1])
        running.callback(kill, process)
        require(process.wait() == 0, f"it did not continue: {last_line(logs[1])}")
    return {
        "sentence": last.removeprefix("error: "),
        "seconds_until_noticed": round(noticed, 1),
        "continued_after_step": continued_after(logs[1]),
        "steps": finished_steps(output),
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((ADDRESS, 0))
        return probe.getsockname()[1]


def main(arguments: list[str]) -> None:
    show_help(arguments, __doc__)
    output = Path(os.environ["OUTPUT_DIR"])
    output.parent.mkdir(parents=True, exist_ok=True)
    gpus = os.environ["CUDA_VISIBLE_DEVICES"].split(",")
    half = len(gpus) // 2
    cluster = Cluster([gpus[:half], gpus[half : 2 * half]], output.parent, dict(os.environ))
    delay = float(os.environ.get("KILL_DELAY", "20"))
    figures = lose_a_node_and_continue(DISTILL, cluster, output, delay)
    write_json(output.parent / FIGURES, figures)
    print(figures)


if __name__ == "__main__":
    run_entry_point(main)
