"""Collection with DATA_PARALLEL_BACKEND=ray on two Ray nodes of this machine, of which one is killed on the way.

Needs vLLM and Ray in one environment; skipped loudly otherwise. The engines are vLLM's on CPUs.
"""

import importlib.util
import sys
import time
from contextlib import closing

import pytest

from experiments.eight_gpus.nodes import Cluster
from experiments.eight_gpus.processes import kill, last_line, start
from srt.common.files import read_json, read_jsonl
from tests.end_to_end.commands import REPOSITORY, count_lines, environment
from tests.end_to_end.toy_task import save_answering_model, write_problems

COMMAND = [sys.executable, str(REPOSITORY / "tests" / "srt" / "helpers" / "collect_on_ray.py")]
PROBLEMS, BEFORE = 60, 8
MINUTES = 15

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(
        importlib.util.find_spec("ray") is None, reason="Ray is not installed here: no collection ran on it"
    ),
]


@pytest.mark.timeout(60 * 2 * MINUTES)
def test_a_lost_node_loses_nothing_and_the_same_command_continues(tmp_path):
    save_answering_model(tmp_path / "model")
    problems = write_problems(tmp_path / "problems.jsonl", PROBLEMS)
    attempts = tmp_path / "out" / "attempts.jsonl"
    env = environment(
        {
            "MODEL_PATH": tmp_path / "model",
            "DATASET": problems,
            "PROMPT_SUFFIX": "",
            "MAX_TOKENS": 100,
            "OUTPUT_DIR": tmp_path / "out",
            "SAMPLER": "vllm",
            "DATA_PARALLEL_SIZE": 2,
            "DATA_PARALLEL_BACKEND": "ray",
            "GRADING_WORKERS": 1,
            "BATCH_SIZE": 2,
            "PYTHONPATH": ":".join(sys.path),
            "VLLM_CPU_KVCACHE_SPACE": 1,
            "TORCHDYNAMO_DISABLE": 1,
            "RAY_memory_monitor_refresh_ms": 0,
        }
    )
    # vLLM tells nodes apart by their address.
    cluster = Cluster([["0"], ["1"]], tmp_path, env, cpus=4, second_address="127.0.0.2")
    with closing(cluster):
        cluster.start_node(0)
        cluster.start_node(1)
        log = tmp_path / "lost.log"
        process = start(COMMAND, cluster.driver_env, log)
        try:
            deadline = time.monotonic() + 60 * MINUTES
            while count_lines(attempts) < BEFORE:
                assert process.poll() is None and time.monotonic() < deadline, log.read_text()
                time.sleep(0.02)
            cluster.kill_node(1)
            assert process.wait(timeout=60 * MINUTES) == 2, log.read_text()
        finally:
            kill(process)
        assert "error: a vLLM engine died" in log.read_text() and "the same command continues" in log.read_text()
        before = read_jsonl(attempts)
        assert BEFORE <= len(before) < 2 * PROBLEMS
        cluster.start_node(1)
        process = start(COMMAND, cluster.driver_env, tmp_path / "again.log")
        try:
            assert process.wait(timeout=60 * MINUTES) == 0, last_line(tmp_path / "again.log")
        finally:
            kill(process)
    lines = read_jsonl(attempts)
    assert lines[: len(before)] == before  # kept, and not sampled again
    assert read_json(tmp_path / "out" / "run.json")["results"]["responses"] == PROBLEMS
