"""A collection whose vLLM engine process is killed, then rerun with the same command."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from srt.common.files import read_jsonl
from tests.end_to_end.commands import REPOSITORY, Outcome, count_lines, environment, run_script
from tests.end_to_end.toy_task import MAX_TOKENS, write_problems

pytestmark = pytest.mark.vllm


def descendants(pid: int) -> list[int]:
    """Process ids of all descendants."""
    children = []
    for tasks in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children += map(int, tasks.read_text().split())
        except (FileNotFoundError, ProcessLookupError):  # it has exited
            continue
    return [pid for child in children for pid in (child, *descendants(child))]


def title(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def collect_and_kill_the_engine(config: dict, when) -> Outcome:
    process = subprocess.Popen(
        ["bash", REPOSITORY / "scripts" / "run_srt_data.sh"],
        env=environment(config),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        while not when():
            assert process.poll() is None, process.communicate()
            time.sleep(0.005)
        (engine,) = [pid for pid in descendants(process.pid) if "VLLM::EngineCore" in title(pid)]
        os.kill(engine, signal.SIGKILL)
        out, err = process.communicate(timeout=120)  # returns once no process holds the pipes open
    finally:
        process.kill()
    return Outcome(process.returncode, out, err)


def test_a_killed_engine_gives_a_one_line_error_and_a_rerun_continues(answering_model, tmp_path):
    output = tmp_path / "output"
    config = {
        "MODEL_PATH": answering_model,
        "DATASET": write_problems(tmp_path / "problems.jsonl", 60),
        "PROMPT_SUFFIX": "",
        "MAX_TOKENS": MAX_TOKENS,
        "TARGET_REVISION_SAMPLES": 10,
        "STAGE1_SIZE": 6,
        "STAGE2_SIZE": 3,
        "BATCH_SIZE": 2,  # slow enough for the kill to come before the end
        "SAMPLER": "vllm",
        "GRADING_WORKERS": 1,
        "OUTPUT_DIR": output,
        "TRAIN_DATA_DIR": tmp_path,
    }
    log = output / "attempts.jsonl"
    separate_process = {"DATA_PARALLEL_SIZE": 1}  # as on GPUs
    killed = collect_and_kill_the_engine(config | separate_process, lambda: count_lines(log) >= 10)
    assert killed.code == 2 and "Traceback" not in killed.err and "leaked" not in killed.err, killed
    (error,) = [line for line in killed.err.splitlines() if line.startswith("error: ")]
    assert "a vLLM engine died" in error and "the same command continues" in error
    assert not (output / "d_revision.json").exists()
    before = log.read_bytes()

    again = run_script("run_srt_data", config)
    assert again.code == 0, again
    assert "continuing: " in again.out
    assert log.read_bytes().startswith(before)
    keys = [(line["problem_idx"], line["response_idx"], line.get("revision_idx")) for line in read_jsonl(log)]
    assert len(keys) == len(set(keys))
    assert len(json.loads((output / "d_revision.json").read_text())) == 10
