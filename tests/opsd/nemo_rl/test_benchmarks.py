"""The benchmarks of the training part with NeMo-RL's workers run, on a CPU worker, and compute the same KL."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.opsd.helpers.needs_nemo_rl import needs_nemo_rl
from tests.opsd.helpers.on_ranks import GENEROUS, waits_for_ranks

ON_CPU = Path(__file__).parents[1] / "helpers" / "run_benchmark_on_cpu.py"
pytestmark = [
    pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU"),
    *needs_nemo_rl("the benchmarks of NeMo-RL's workers were NOT run"),
]


def run(name, folder, *options):
    """The rows that the benchmark writes."""
    file = folder / "out.json"
    done = subprocess.run(
        [sys.executable, str(ON_CPU), name, *options, f"json={file}"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "FAKE_GPUS": "1"},
        capture_output=True,
        text=True,
        timeout=GENEROUS,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(file.read_text())["rows"]


@waits_for_ranks
def test_backends(tiny_checkpoint, tmp_path):
    sizes = "responses=4 prompt=8 max_tokens=32 tokens_per_micro_batch=200 steps=1 checkpointing=0".split()
    (row,) = run("backends", tmp_path, f"model={tiny_checkpoint}", "variants=dtensor", *sizes)
    assert row["variant"] == "dtensor" and row["seconds"] > 0 and row["grad_norm"] > 0.01 < row["kl"]


@waits_for_ranks
def test_against_stock(tiny_checkpoint, tmp_path):
    """The same model reads the same rows, so that their KL is 0; with the cue between, it is not."""
    sizes = "batch=4 prompt=8 response=16 micro_batch=2 topk=4 steps=1 checkpointing=0".split()
    rows = run("against_stock", tmp_path, f"model={tiny_checkpoint}", *sizes)
    losses = {row["name"]: row["loss"] for row in rows}
    assert list(losses) == ["stock", "exact, same rows", "exact, teacher rows"]
    assert losses["exact, same rows"] == pytest.approx(0, abs=1e-5) and losses["exact, teacher rows"] > 0.01
    assert losses["stock"] == pytest.approx(0, abs=1e-3)
