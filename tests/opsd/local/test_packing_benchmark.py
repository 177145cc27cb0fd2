"""The benchmark of padded and packed passes runs, and both compute the same."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import opsd
import srt


def test_both_variants_score_and_train_the_same_pairs(tiny_checkpoint, tmp_path):
    phase2 = Path(opsd.__file__).parents[1]
    paths = [str(Path(srt.__file__).parents[1]), str(phase2)]
    sizes = ["samples=20,0.5", "prompts=5", "max_tokens=200", "rounds=1", "repeats=1"]
    done = subprocess.run(
        [
            sys.executable,
            str(phase2 / "benchmarks" / "packing.py"),
            f"model={tiny_checkpoint}",
            *sizes,
            "tokens_per_micro_batch=400",
            f"json={tmp_path / 'out.json'}",
        ],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "out.json").read_text())
    padded, packed = figures["padded"], figures["packed"]
    assert packed["kl"] == pytest.approx(padded["kl"], rel=1e-3) and padded["kl"] > 1e-3
    assert packed["computed"] == 1 < padded["computed"]
    assert packed["micro_batches"] <= padded["micro_batches"]
    for row in (padded, packed):
        assert row["forward"]["seconds"] > 0 < row["update"]["seconds"]
    assert [line.split()[:2] for line in done.stdout.splitlines()[-4:]] == [
        ["padded", "forward"],
        ["packed", "forward"],
        ["padded", "update"],
        ["packed", "update"],
    ]
