"""Two training processes (FSDP2 over gloo) against one: same losses and weights, also after switching."""

import shutil
import subprocess
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from srt.common.files import read_json
from tests.end_to_end.commands import REPOSITORY, environment, run_script, the_error

UPDATE = {"TUPLES_PER_UPDATE": 6, "EPOCHS_STAGE1": 1, "EPOCHS_STAGE2": 2, "SAVE_STEPS": 2, "REPORT_TO": "none"}
TWO = {"NUM_PROCESSES": 2, "PACKING": 1, "MAX_TOKENS_PER_PASS": 60}


@pytest.fixture(scope="module")
def config(full_run):
    return full_run.sft | UPDATE


@pytest.fixture(scope="module")
def one_process(config, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("one") / "srt"
    outcome = run_script("sft", config | {"OUTPUT_DIR": output})
    assert outcome.code == 0, outcome
    return output


def steps(folder: Path) -> list[tuple[int, float, float]]:
    return [
        (entry["step"], entry["loss"], entry["grad_norm"])
        for entry in read_json(folder / "training_log.json")
        if "loss" in entry
    ]


def assert_same_training(output: Path, other: Path) -> None:
    for stage in ("stage1", "stage2"):
        for actual, expected in zip(steps(output / stage), steps(other / stage), strict=True):
            assert actual == pytest.approx(expected, rel=1e-4)
        actual, expected = (load_file(folder / stage / "model.safetensors") for folder in (output, other))
        assert actual.keys() == expected.keys()
        for name in actual:
            # Saved in bf16: where fp32 sums in another order cross a rounding boundary, weights differ by one ulp.
            torch.testing.assert_close(actual[name], expected[name], rtol=2**-7, atol=1e-5)
            same = torch.isclose(actual[name], expected[name], rtol=1e-3, atol=1e-5)
            assert same.float().mean() > 0.999


def test_two_packed_processes_train_as_one_padded_process(config, one_process, tmp_path):
    output = tmp_path / "srt"
    outcome = run_script("sft", config | TWO | {"OUTPUT_DIR": output})
    assert outcome.code == 0, outcome
    assert "packed passes on 2 processes (FSDP2)" in outcome.out
    assert outcome.out.count("the SRT model:") == 1 and outcome.out.count("\nStage 1\n") == 1
    assert_same_training(output, one_process)
    assert sorted(path.name for path in output.iterdir()) == ["run.json", "stage1", "stage2"]


def start_and_kill(config, checkpoint: Path) -> None:
    """kill -9 of the command alone, once the checkpoint is complete; its subprocesses must end by themselves."""
    script = subprocess.Popen(
        ["bash", REPOSITORY / "scripts" / "sft.sh"],
        env=environment(config),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while not (checkpoint / "complete").exists():
            assert script.poll() is None
            time.sleep(0.01)
    finally:
        script.kill()
        script.wait()


def test_a_killed_training_continues_with_another_number_of_processes(config, one_process, tmp_path):
    """From two to one in stage 1, from one to two in stage 2."""
    output = tmp_path / "srt"
    start_and_kill(config | TWO | {"OUTPUT_DIR": output}, output / "stage1.work" / "checkpoint-2")
    start_and_kill(config | {"OUTPUT_DIR": output}, output / "stage2.work" / "checkpoint-2")
    last = run_script("sft", config | TWO | {"OUTPUT_DIR": output})
    assert last.code == 0, last
    assert f"continuing from {output / 'stage2.work' / 'checkpoint-2'}" in last.out
    assert_same_training(output, one_process)
    assert sorted(path.name for path in output.iterdir()) == ["run.json", "stage1", "stage2"]


def test_an_error_in_one_process_is_printed_once_and_leaves_nothing_behind(config, tmp_path):
    diverging = {"WEIGHT_DECAY": 1e33, "WARMUP_RATIO": 0, "NUM_PROCESSES": 2, "OUTPUT_DIR": tmp_path / "srt"}
    outcome = run_script("sft", config | diverging)
    assert outcome.code == 2
    last = outcome.err.strip().splitlines()[-1]
    assert last.startswith("error: stage 1, update 2: the loss is") and outcome.err.count("error: stage 1") == 1
    assert sorted(path.name for path in (tmp_path / "srt").iterdir()) == ["run.json", "stage1.work"]


def test_a_full_disk_stops_all_processes_with_one_error_line(config, tmp_path):
    # A checkpoint's weights (400 KiB) exceed this limit.
    outcome = run_script("sft", config | TWO | {"OUTPUT_DIR": tmp_path / "srt"}, prefix="ulimit -f 200;")
    assert outcome.code == 2
    last = outcome.err.strip().splitlines()[-1]
    assert last.startswith("error: a file could not be written (File too large); free space or change OUTPUT_DIR")


def test_bad_input_is_rejected_before_any_process_starts(config, tmp_path):
    data = shutil.copytree(config["TRAIN_DATA_DIR"], tmp_path / "data")
    (data / "little_stage2.json").write_text("[]")
    outcome = run_script("sft", config | TWO | {"TRAIN_DATA_DIR": data, "OUTPUT_DIR": tmp_path / "srt"})
    assert "expected a list with at least one tuple" in the_error(outcome)
