"""A run of the NeMo-RL engine on two Ray nodes of this machine, one of which is killed in the middle of a step.

Nodes, token, kills and the second run are those of experiments/eight_gpus/nodes.py; the workers are on CPUs. Needs
NeMo-RL's source and packages; skipped loudly otherwise.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from experiments.eight_gpus.nodes import Cluster, lose_a_node_and_continue
from srt.common.files import read_jsonl, write_jsonl
from tests.opsd.helpers.needs_nemo_rl import needs_nemo_rl

RUN = Path(__file__).parents[1] / "helpers" / "run_nemo_on_cpu.py"
pytestmark = [
    pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU; see scripts/experiments"),
    *needs_nemo_rl("no node was killed"),
]
SETTINGS = {
    "ENGINE": "nemo-rl",
    "FAKE_GPUS": "1",
    "PROMPT_SUFFIX": "",
    "REPORT_TO": "none",
    "LR": "1e-3",
    "NUM_PROMPTS_PER_STEP": "4",
    "TRAIN_GLOBAL_BATCH_SIZE": "4",
    "MAX_TOTAL_SEQUENCE_LENGTH": "40",
    "WARMUP_STEPS": "1",
    "GRADING_WORKERS": "1",
    "GRADIENT_CHECKPOINTING": "0",
    "MAX_NUM_STEPS": "6",
    "MAX_NUM_EPOCHS": "100",
    "SAVE_PERIOD": "1",
    "VAL_PERIOD": "0",
    "PREFLIGHT": "0",
    "CHECK_MEMORY": "0",
}


@pytest.mark.timeout(1200)
def test_a_lost_node_ends_the_run_with_a_sentence_and_the_same_command_continues(tmp_path, coin_checkpoint):
    problems = [{"id": f"p{n}", "problem": f"x = {n} [A] + 1", "answer": "7"} for n in range(6)]
    write_jsonl(tmp_path / "problems.jsonl", problems)
    output = tmp_path / "job" / "run"
    output.parent.mkdir()
    env = os.environ | SETTINGS
    env |= {"STUDENT_MODEL": str(coin_checkpoint), "TRAIN_DATASET": str(tmp_path / "problems.jsonl")}
    env |= {"OUTPUT_DIR": str(output), "PYTHONPATH": os.pathsep.join(sys.path), "TEMP": str(tmp_path)}
    cluster = Cluster([["0"], ["1"]], output.parent, env, cpus=8)
    figures = lose_a_node_and_continue([sys.executable, str(RUN)], cluster, output, delay=0)
    assert "a node of the Ray cluster is gone (" in figures["sentence"]
    assert figures["sentence"].endswith("the same command continues from the newest checkpoint")
    assert 1 <= figures["continued_after_step"] < figures["steps"] == 6
    assert [line["step"] for line in read_jsonl(output / "metrics.jsonl")] == list(range(6))
    assert (output / "student" / "sd_zero.json").is_file()


DEAD_ACTOR = """
from opsd.nemo_rl.driver.lost_workers import lost_workers_in_words
from srt.common.errors import UserError
from srt.common.ray_auth import protect_own_cluster

protect_own_cluster()
import os, ray

@ray.remote
class Worker:
    def end(self):
        os._exit(1)

    def fail(self):
        raise ZeroDivisionError("a fault")

def outcome(call):
    try:
        with lost_workers_in_words(num_nodes=1):
            ray.get(call())
    except UserError as error:
        return f"sentence: {error}"
    except ray.exceptions.RayTaskError as error:
        return f"passed on: {type(error.cause).__name__}"

ray.init(address="local", num_cpus=2, log_to_driver=False, include_dashboard=False)
worker = Worker.remote()
print(outcome(worker.fail.remote))
print(outcome(worker.end.remote))
"""


@pytest.mark.timeout(600)
def test_a_killed_worker_is_a_sentence_and_a_fault_of_its_code_is_not(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(DEAD_ACTOR)
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    env |= {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, script], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    fault, killed = re.findall(r"^(?:passed on|sentence): .*", done.stdout, re.MULTILINE)  # Ray prints, too
    assert fault == "passed on: ZeroDivisionError"
    assert killed.startswith("sentence: a worker was killed, for want of memory for example (WORKER_LOGS=1 shows")
