"""When and on what a run ran, as its run.json says."""

import os
from datetime import UTC, datetime, timedelta

import pytest

from srt.common.files import read_json
from srt.contract.hardware import describe_hardware, hardware
from srt.contract.provenance import close_run, open_run

NVIDIA_SMI = "#!/bin/sh\nprintf 'NVIDIA A\\nNVIDIA A\\nNVIDIA B\\n'\n"


def age(text: str) -> timedelta:
    return datetime.now(UTC) - datetime.fromisoformat(text)


def test_a_run_says_when_it_started_and_ended_and_on_what(tmp_path):
    open_run(tmp_path, {}, {})
    started = read_json(tmp_path / "run.json")
    assert timedelta() <= age(started["started"]) + timedelta(seconds=1) < timedelta(minutes=10)
    assert "finished" not in started
    assert started["hardware"]["cores"] == len(os.sched_getaffinity(0))
    assert started["hardware"]["memory_gib"] > 0.1 and started["hardware"]["cpu"]
    open_run(tmp_path, {}, {})
    assert read_json(tmp_path / "run.json") == started
    close_run(tmp_path, {"steps": 3})
    finished = read_json(tmp_path / "run.json")
    assert finished["results"] == {"steps": 3} and age(finished["finished"]) < timedelta(minutes=10)
    assert finished["started"] == started["started"]


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, ["NVIDIA A", "NVIDIA A", "NVIDIA B"]),
        ("2,0", ["NVIDIA B", "NVIDIA A"]),
        ("", []),
        ("GPU-1234", ["NVIDIA A", "NVIDIA A", "NVIDIA B"]),
    ],
)
def test_the_gpus_are_those_that_the_process_may_use(tmp_path, monkeypatch, visible, expected):
    program = tmp_path / "nvidia-smi"
    program.write_text(NVIDIA_SMI)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert hardware()["gpus"] == expected


def test_without_a_driver_there_are_no_gpus(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert hardware()["gpus"] == []


def test_hardware_in_words_counts_equal_gpus():
    record = {"host": "node7", "cpu": "Xeon", "cores": 16, "memory_gib": 126.5, "gpus": ["H100", "A100", "H100"]}
    assert describe_hardware(record) == "2x H100, 1x A100; Xeon, 16 cores, 126.5 GiB (node7)"
    assert describe_hardware({"cpu": "Xeon", "cores": 2}) == "Xeon, 2 cores"
