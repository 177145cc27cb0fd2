"""The benchmark of few and many tuples an update runs, on one and on two processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import srt

PHASE1 = Path(srt.__file__).parents[1]


def run(*arguments) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": str(PHASE1)}
    command = [sys.executable, str(PHASE1 / "benchmarks" / "sft_updates.py"), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_every_variant_trains_the_same_tuples(tiny_checkpoint, tmp_path):
    knobs = ["rounds=1", "median=30", "max_length=60", "max_tokens_per_pass=100", f"json={tmp_path / 'out.json'}"]
    done = run(f"model={tiny_checkpoint}", "tuples=1,4", "processes=1,2", *knobs)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert [(row["processes"], row["tuples"]) for row in rows] == [(1, 1), (1, 4), (2, 1), (2, 4)]
    assert len({row["tokens"] for row in rows}) == 1 and rows[0]["tokens"] >= 4 * 8
    assert all(row["tokens_per_second"] == row["tokens"] / row["seconds"] > 0 for row in rows)
    for single, double in zip(rows[:2], rows[2:], strict=True):
        assert double["loss"] == pytest.approx(single["loss"], rel=1e-3)
    assert rows[0]["passes"] == rows[2]["passes"] == 1 < rows[1]["passes"]
    assert done.stdout.splitlines()[-4].split()[:2] == ["1", "1"] and "1.00x" in done.stdout.splitlines()[-1]


def test_sizes_that_cannot_train_the_same_tuples_are_refused():
    assert "each must divide the largest" in run("model=m", "tuples=3,4").stderr
