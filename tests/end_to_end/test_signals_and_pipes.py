"""The shell scripts: signals reach what they started, a closed pipe is not success, links to them work."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.end_to_end.commands import REPOSITORY, Knobs, environment, the_error
from tests.end_to_end.commands import Outcome as Finished
from tests.end_to_end.toy_task import write_problems

SCRIPTS = ("run_srt_data", "sft", "distill", "evaluate", "report")


def script(name: str) -> Path:
    return REPOSITORY / "scripts" / f"{name}.sh"


@pytest.fixture
def collection(tiny_checkpoint, tmp_path) -> Knobs:
    """Of an untrained model, with responses as long as it can make them."""
    return {
        "MODEL_PATH": tiny_checkpoint,
        "DATASET": write_problems(tmp_path / "problems.jsonl", 40),
        "SAMPLER": "transformers",
        "SAMPLER_BATCH": 1,
        "MAX_TOKENS": 60,
        "GRADING_WORKERS": 1,
        "DATA_PREFIX": "p",
        "OUTPUT_DIR": tmp_path / "output",
        "TRAIN_DATA_DIR": tmp_path / "train_data",
    }


def wait_until(condition, process: subprocess.Popen, seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_signal_to_the_script_ends_the_collection(collection, tmp_path):
    process = subprocess.Popen(
        ["bash", script("run_srt_data")],
        env=environment(collection),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    log = tmp_path / "output" / "attempts.jsonl"
    wait_until(lambda: log.exists() and log.stat().st_size > 0, process)
    process.terminate()  # this process only, not what it started
    err = process.communicate(timeout=60)[1]
    assert process.returncode == 128 + signal.SIGTERM
    assert err.splitlines()[-1] == "stopped by SIGTERM; the same command continues from here"
    size = log.stat().st_size
    time.sleep(1)
    assert log.stat().st_size == size
    assert not (tmp_path / "train_data").exists()


RUNS_ANOTHER = """
source "{repository}/scripts/common.sh"
run bash -c 'trap "echo told >>{log}; exit 0" TERM INT; echo started >>{log}; while :; do sleep 0.05; done'
echo went on >>{log}
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_scripts_that_start_others_pass_signals_on_and_wait(tmp_path, number):
    """As quickstart.sh and test.sh do."""
    log = tmp_path / "log"
    program = RUNS_ANOTHER.format(repository=REPOSITORY, log=log)
    process = subprocess.Popen(
        ["bash", "-c", program], preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
    )
    wait_until(log.exists, process)
    process.send_signal(number)
    assert process.wait(timeout=60) == 128 + number
    assert log.read_text() == "started\ntold\n"


@pytest.mark.parametrize(("command", "code"), [("true", 0), ("exit 3", 3), ("kill -KILL $$", 137)])
def test_run_returns_the_exit_code_of_the_command(command, code):
    program = f"source {REPOSITORY}/scripts/common.sh; run bash -c '{command}'"
    assert subprocess.run(["bash", "-c", program], capture_output=True).returncode == code


@pytest.mark.parametrize("name", ["quickstart", "test", "quickstart_seeds"])
def test_no_script_starts_another_one_without_passing_signals_on(name):
    lines = [line for line in script(name).read_text().splitlines() if not line.lstrip().startswith("#")]
    assert any("run " in line for line in lines)
    for line in lines:
        if 'bash "$REPOSITORY/scripts/' in line:
            assert "run bash" in line, line


def test_a_closed_pipe_is_not_success_and_splits_nothing(collection, tmp_path):
    command = 'set -o pipefail; bash "$0" 2>"$1" | head -1'
    errors = tmp_path / "stderr"
    done = subprocess.run(
        ["bash", "-c", command, script("run_srt_data"), errors],
        env=environment(collection),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 141, (done, errors.read_text())
    assert done.stdout.startswith("knobs: ") and done.stdout.count("\n") == 1
    assert "whoever read this output has ended (a closed pipe)" in errors.read_text()
    assert not (tmp_path / "train_data").exists()


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_into_a_pipe_that_closes_is_quiet(name):
    command = 'set -o pipefail; bash "$0" --help | head -1'
    done = subprocess.run(
        ["bash", "-c", command, script(name)], env=environment({}), capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.startswith("Knobs of")


def test_a_script_may_be_called_through_a_symbolic_link(tmp_path):
    folder = tmp_path / "some where"
    folder.mkdir()
    (folder / "train").symlink_to(script("sft"))
    done = subprocess.run(
        ["bash", folder / "train", "epochs_stage1"],
        env=environment({}),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
    )
    sentence = the_error(Finished(done.returncode, done.stdout, done.stderr))
    assert "so write epochs_stage1=VALUE" in sentence


def test_output_in_ascii(tmp_path):
    """A message with a character that the terminal does not know."""
    env = environment({"MODEL_PATH": tmp_path / "Модель"}) | {"PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    done = subprocess.run(["bash", script("run_srt_data")], env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert r"\u041c\u043e\u0434\u0435\u043b\u044c: no such checkpoint folder" in done.stderr


def test_an_environment_without_packages_says_so(tmp_path):
    python = tmp_path / "bare" / "bin" / "python"
    python.parent.mkdir(parents=True)
    real = os.path.realpath(environment({})["VIRTUAL_ENV"] + "/bin/python")
    python.write_text(f'#!/bin/sh\nexec {real} -S "$@"\n')  # -S: no site-packages
    python.chmod(0o755)
    env = environment({"VIRTUAL_ENV": tmp_path / "bare"})
    done = subprocess.run(["bash", script("sft")], env=env, capture_output=True, text=True, timeout=60)
    sentence = the_error(Finished(done.returncode, done.stdout, done.stderr))
    assert "lacks what this command needs: No module named '" in sentence and "as the README says" in sentence
