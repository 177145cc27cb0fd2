"""Both trainings killed while they export, again and again: in the end each published file is as without kills."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from srt.common.files import read_json
from tests.end_to_end.commands import Knobs, environment
from tests.end_to_end.toy_task import write_problems
from tests.srt.helpers.stage_files import write_stage_files

# Imports once; each command runs in a child that it forks off, so that a kill costs no new imports.
SERVER = """
import json, os, sys, traceback
from opsd.distill import distill
from srt.sft.run import train
for line in sys.stdin:
    name, arguments, log = json.loads(line)
    child = os.fork()
    if not child:
        for descriptor in (1, 2):
            os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
        try:
            {"sft": train, "distill": distill}[name](arguments)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
# What appears during an export, in this order; a kill follows as soon as it is there, or some milliseconds later.
OF_A_STAGE = ("config.json", "model.safetensors", "tokenizer.json", "training_log.json", "sd_zero.json")
SFT_MOMENTS = [
    moment
    for stage in (1, 2)
    for moment in (
        f"stage{stage}.work/final",
        *(f"stage{stage}.work/final/{name}" for name in OF_A_STAGE),
        f"stage{stage}",
    )
]
DISTILL_MOMENTS = [
    "checkpoints/.step_000001.tmp",
    "checkpoints/.step_000001.tmp/optimizer.pt",
    "checkpoints/step_000001",
    ".student.tmp",
    *(f".student.tmp/{name}" for name in ("config.json", "model.safetensors", "tokenizer.json")),
    *(f".student.tmp/{name}" for name in ("distill_problems.jsonl", "sd_zero.json")),
    "student",
]
DELAYS = (0.0, 0.002, 0.005, 0.01)  # seconds


@dataclass
class Server:
    process: subprocess.Popen

    def run(self, name: str, knobs: Knobs, log: Path, kill_when: Callable[[], bool] | None = None) -> int:
        """The exit code of the command: -9 if it was killed as soon as `kill_when()` held."""
        arguments = [f"{knob.lower()}={value}" for knob, value in knobs.items()]
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps([name, arguments, str(log)]) + "\n")
        self.process.stdin.flush()
        child = int(self.process.stdout.readline())
        while kill_when is not None and not kill_when():
            if not Path(f"/proc/{child}").exists():
                break
            time.sleep(0.0005)
        if kill_when is not None:
            try:
                os.kill(child, signal.SIGKILL)
            except ProcessLookupError:
                pass
        return int(self.process.stdout.readline())


@pytest.fixture(scope="module")
def server():
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment({}),
    )
    yield Server(process)
    process.kill()
    process.wait()


def published(folder: Path) -> dict[str, bytes | object]:
    """Every file below, with its content; in place of what holds times, what remains of it without them."""
    content: dict[str, bytes | object] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        content[str(path.relative_to(folder))] = path.read_bytes()
        if path.name == "training_log.json":
            content[str(path.relative_to(folder))] = [entry.get("loss") for entry in read_json(path)]
        if path.name == "sd_zero.json":
            metadata = read_json(path)
            metadata["files"].get("training_log.json", {}).pop("bytes", None)
            content[str(path.relative_to(folder))] = metadata
    return content


def kill_at_every_moment(server: Server, name: str, knobs: Knobs, output: Path, moments: list[str]) -> int:
    """Starts the command once for each moment, kills it then, and at last lets it finish; returns the kills."""
    log, kills = output.with_suffix(".log"), 0
    for number, moment in enumerate(moments):
        path, delay = output / moment, DELAYS[number % len(DELAYS)]
        if path.exists():  # left by the kill before
            continue

        def there(path: Path = path, delay: float = delay) -> bool:
            if not path.exists():
                return False
            time.sleep(delay)
            return True

        kills += server.run(name, knobs | {"OUTPUT_DIR": output}, log, there) == -signal.SIGKILL
    assert server.run(name, knobs | {"OUTPUT_DIR": output}, log) == 0, log.read_text()
    return kills


def leftovers(output: Path) -> list[Path]:
    return [path for path in output.rglob("*") if ".tmp" in path.name or path.name.endswith(".work")]


def test_stages_that_were_killed_while_they_were_exported(server, tiny_checkpoint, tmp_path):
    write_stage_files(tmp_path / "data", 8, lambda number: 1 + number % 3)
    knobs: Knobs = {
        "BASE_MODEL": tiny_checkpoint,
        "TRAIN_DATA_DIR": tmp_path / "data",
        "DATA_PREFIX": "p",
        "NUM_PROCESSES": 1,
        "EPOCHS_STAGE1": 1,
        "EPOCHS_STAGE2": 1,
        "LR_STAGE1": 1e-3,
        "LR_STAGE2": 1e-3,
        "SAVE_STEPS": 1,
        "REPORT_TO": "none",
    }
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    assert server.run("sft", knobs | {"OUTPUT_DIR": undisturbed}, tmp_path / "log") == 0, (
        tmp_path / "log"
    ).read_text()
    assert (
        kill_at_every_moment(server, "sft", knobs, killed, SFT_MOMENTS) >= 2
    )  # on a slow machine some come too late
    for stage in ("stage1", "stage2"):
        assert published(killed / stage) == published(undisturbed / stage)
    assert leftovers(killed) == []
    assert sorted(path.name for path in killed.iterdir()) == ["run.json", "stage1", "stage2"]


def test_a_student_that_was_killed_while_it_was_exported(server, tiny_checkpoint, tmp_path):
    knobs: Knobs = {
        "STUDENT_MODEL": tiny_checkpoint,
        "TRAIN_DATASET": write_problems(tmp_path / "problems.jsonl", 4),
        "ENGINE": "local",
        "SAMPLER": "transformers",
        "VAL_PERIOD": 0,
        "MAX_NUM_STEPS": 1,
        "NUM_PROMPTS_PER_STEP": 2,
        "TRAIN_GLOBAL_BATCH_SIZE": 2,
        "MAX_TOTAL_SEQUENCE_LENGTH": 60,
        "PROMPT_SUFFIX": "",
        "WARMUP_STEPS": 0,
        "LR": 1e-3,
        "GRADING_WORKERS": 1,
        "PREFLIGHT": 0,
        "REPORT_TO": "none",
    }
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    assert server.run("distill", knobs | {"OUTPUT_DIR": undisturbed}, tmp_path / "log") == 0, (
        tmp_path / "log"
    ).read_text()
    assert kill_at_every_moment(server, "distill", knobs, killed, DISTILL_MOMENTS) >= 2
    assert published(killed / "student") == published(undisturbed / "student")
    assert leftovers(killed) == []
    assert {path.name for path in killed.iterdir()} == {path.name for path in undisturbed.iterdir()}
