"""On a cluster, the workers of each node get that node's GPUs, whichever the driver sees.

Two Ray nodes of this machine, which claim a GPU each; what a worker would use is in its environment. Needs
NeMo-RL's source and packages; skipped loudly otherwise.
"""

import os
import subprocess
import sys

import pytest

from experiments.eight_gpus.nodes import Cluster
from tests.opsd.helpers.needs_nemo_rl import needs_nemo_rl

pytestmark = [pytest.mark.timeout(600), *needs_nemo_rl("no cluster was joined")]

# Workers are given the driver's environment, as NeMo-RL gives it to its own.
JOIN = """
import os
from opsd.config import DistillConfig
from opsd.nemo_rl.driver import runtime
from srt.config import load_config

settings = ["student_model=x", "train_dataset=y", "num_nodes=2", "gpus_per_node=1"]
config = load_config(DistillConfig, "distill", settings)
runtime.prepare_ray(config)
runtime.join_ray(config, gpus=2)
import ray

@ray.remote(num_gpus=1)
class Worker:
    def gpu(self):
        return os.environ["CUDA_VISIBLE_DEVICES"]

workers = [Worker.options(runtime_env={"env_vars": dict(os.environ)}).remote() for _ in range(2)]
print("GPUs", *sorted(ray.get([worker.gpu.remote() for worker in workers])))
"""


def test_each_nodes_workers_get_its_own_gpus(tmp_path):
    script = tmp_path / "join.py"
    script.write_text(JOIN)
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    cluster = Cluster([["0"], ["3"]], tmp_path, env | {"PYTHONPATH": os.pathsep.join(sys.path)}, cpus=8)
    try:
        cluster.start_node(0)
        cluster.start_node(1)
        done = subprocess.run([sys.executable, script], env=cluster.driver_env, capture_output=True, text=True)
    finally:
        cluster.close()
    assert done.returncode == 0, done.stderr
    assert "GPUs 0 3\n" in done.stdout
